"""Pin what pip resolves for a configuration under the running Python.

    python3.10 tools/lock_requirements.py paddle33

reads ``requirements/paddle33.in`` and writes ``requirements/paddle33-py3.10.txt``. Nothing is installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN_NAME = 'paddleslim-ng'
# Wheels that exist on one platform only; elsewhere the line must not apply.
LINUX_X86 = "sys_platform == 'linux' and platform_machine == 'x86_64'"
MARKERS = {'paddlelite': LINUX_X86, 'paddle2onnx': LINUX_X86}


def resolve(source: Path) -> list[tuple[str, str]]:
    """Return the (name, version) pairs that pip would install for a requirements file, sorted by name."""
    command = [sys.executable, '-m', 'pip', 'install', '--dry-run', '--ignore-installed', '--quiet']
    command += ['--report', '-', '--requirement', str(source)]
    answer = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    report = json.loads(answer[answer.index('{') :])
    found = [(item['metadata']['name'], item['metadata']['version']) for item in report['install']]
    return sorted((pair for pair in found if pair[0] != OWN_NAME), key=lambda pair: pair[0].lower())


def render(name: str, version: str) -> str:
    """Return one line of a lock file."""
    marker = MARKERS.get(name.lower())
    return f'{name}=={version}' + (f' ; {marker}' if marker else '')


def main() -> None:
    """Write the lock file of the configuration named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configuration', help='stem of a file requirements/*.in')
    configuration = parser.parse_args().configuration
    python = f'{sys.version_info[0]}.{sys.version_info[1]}'
    source = ROOT / 'requirements' / f'{configuration}.in'
    target = source.with_name(f'{configuration}-py{python}.txt')
    header = f'# Written by tools/lock_requirements.py from {source.name} under Python {python}; do not edit.\n'
    pins = resolve(source)
    target.write_text(header + ''.join(render(*pair) + '\n' for pair in pins), encoding='utf-8')
    print(f'{target.relative_to(ROOT)}: {len(pins)} packages')


if __name__ == '__main__':
    main()
