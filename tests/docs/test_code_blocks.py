"""Every Python block of the documentation runs. The blocks of a page share one namespace, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / 'docs').rglob('*.md'), *ROOT.glob('README*.md')])
FENCE = re.compile(
    r'^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<info>[^\n`]*)\n(?P<code>.*?)^ *(?P=marks)[ \t]*$', re.M | re.S
)
# Blocks that cannot run in a test, page by page; each page says at the block why.
NOT_RUN: dict[str, int] = {}
SECONDS = 300


class Block(NamedTuple):
    """One fenced block: its info string, its code, and the line where the code starts."""

    info: str
    code: str
    line: int


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a Markdown text whose info string speaks of Python."""
    found = []
    for match in FENCE.finditer(text):
        info = ' '.join(match['info'].split())
        if info.lower().startswith(('py', '{py', '.py')):
            code = (
                re.sub(rf'^ {{1,{len(match["indent"])}}}', '', match['code'], flags=re.M)
                if match['indent']
                else match['code']
            )
            found.append(Block(info, code, text.count('\n', 0, match.start('code')) + 1))
    return found


def script_of(blocks: list[Block]) -> str:
    """Return one script of the blocks that run, each at its lines of the page, so that tracebacks point there."""
    lines: list[str] = []
    for block in blocks:
        if block.info == 'python':
            lines += [''] * (block.line - 1 - len(lines)) + block.code.splitlines()
    return '\n'.join(lines) + '\n'


def run(page: Path, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in ``folder`` as if it were the file ``page``."""
    launcher = 'import sys; exec(compile(sys.stdin.read(), sys.argv[1], "exec"), {"__name__": "__main__"})'
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    command = [sys.executable, '-c', launcher, str(page)]
    environment = {**os.environ, 'PYTHONPATH': path, 'MPLBACKEND': 'agg'}
    return subprocess.run(
        command, input=script, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize('page', [page for page in PAGES if blocks_of(page.read_text('utf-8'))], ids=name_of)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    done = run(page, script_of(blocks_of(page.read_text('utf-8'))), tmp_path)
    assert done.returncode == 0, f'{name_of(page)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}'


def test_few_blocks_are_exempt() -> None:
    """A block runs, or says ``python no-run`` and is counted above: no other spelling escapes."""
    infos = {name_of(page): [block.info for block in blocks_of(page.read_text('utf-8'))] for page in PAGES}
    assert {info for page in infos.values() for info in page} <= {'python', 'python no-run'}
    assert {page: found.count('python no-run') for page, found in infos.items() if 'python no-run' in found} == NOT_RUN
    assert sum(NOT_RUN.values()) <= 5


def test_blocks_share_a_namespace_and_keep_their_lines(tmp_path: Path) -> None:
    text = (
        '# Page\n\n```python\nvalue = 1\n```\n\n- item\n\n  ```python\n  value += 1\n  ```\n\n'
        '```python no-run\n1 / 0\n```\n```sh\nls\n```\n'
    )
    blocks = blocks_of(text)
    assert [(block.info, block.line) for block in blocks] == [('python', 4), ('python', 10), ('python no-run', 14)]
    script = script_of(blocks)
    assert run(Path('page.md'), script + 'assert value == 2\n', tmp_path).returncode == 0
    failed = run(Path('page.md'), script + 'raise SystemExit(value + 1)', tmp_path)
    assert failed.returncode == 3
    assert 'page.md", line 12' in run(Path('page.md'), script + '\n1 / 0\n', tmp_path).stderr
