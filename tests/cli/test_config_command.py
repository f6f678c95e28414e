"""paddleslim-ng config: what would run, what is wrong, and the schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paddleslim_ng.cli import main
from paddleslim_ng.compress.configuration import json_schema

GOOD = """\
version: 1.0
pruners: {spare: {class: StructurePruner}}
strategies:
  quantize: {class: PostTrainingQuantStrategy}
  prune: {class: UniformPruneStrategy, start_epoch: 1}
  own: {class: no_such_module.Own}
  sparse: {class: GMPStrategy, end_epoch: 2}
compressor: {epoch: 4, strategies: [prune, sparse, own, quantize]}
"""
BAD = (
    'version: 1.0\nstrategies:\n  prune: {class: UniformPruneStrateg}\ncompressor:\n  epoch: x\n  strategies: [prune]\n'
)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / 'good.yaml').write_text(GOOD, 'utf-8')
    (tmp_path / 'bad.yaml').write_text(BAD, 'utf-8')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(['config', *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_what_would_run(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, 'check', 'good.yaml', '--no-import')
    assert (code, err) == (0, '')
    assert out.splitlines() == [
        'good.yaml: valid, 4 epochs',
        '  1.  prune     UniformPruneStrategy       epochs 1 to 3, to the end',
        '  2.  sparse    GMPStrategy                epochs 0 to 1',
        '  3.  own       no_such_module.Own         not imported, so its keys are not checked',
        '  4.  quantize  PostTrainingQuantStrategy  after the last epoch',
        '  together: prune and sparse, epoch 1',
        '  note: good.yaml:2: pruners.spare: nothing uses it',
    ]


def test_the_same_for_machines(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, 'check', 'good.yaml', '--no-import', '--json')
    (found,) = json.loads(out)['files']
    assert code == 0
    assert (found['valid'], found['epochs'], found['problems']) == (True, 4, [])
    assert [(one['name'], one['start_epoch'], one['end_epoch']) for one in found['strategies']] == [
        ('prune', 1, 4),
        ('sparse', 0, 2),
        ('own', None, None),
        ('quantize', 0, 4),
    ]
    assert found['together'] == [{'strategies': ['prune', 'sparse'], 'start_epoch': 1, 'end_epoch': 2}]
    assert found['compressor']['keep_checkpoints'] == 2


def test_what_is_wrong(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, 'check', 'good.yaml', 'bad.yaml')
    assert code == 2
    lines = out.splitlines()
    assert lines[0].startswith("good.yaml:6: strategies.own.class: 'no_such_module.Own' cannot be imported")
    assert lines[1].startswith("bad.yaml:3: strategies.prune.class: unknown class 'UniformPruneStrateg'; did you mean")
    assert lines[2].startswith("bad.yaml:5: compressor.epoch: must be a whole number, not 'x'")
    code, out, _ = call(capsys, 'check', 'bad.yaml', '--json')
    (found,) = json.loads(out)['files']
    assert code == 2
    assert [(one['file'], one['line'], one['column'], one['key']) for one in found['problems']] == [
        ('bad.yaml', 3, 11, 'strategies.prune.class'),
        ('bad.yaml', 5, 3, 'compressor.epoch'),
    ]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['check'], 'name the files to check'),
        (['check', 'good.yaml', '-o', 'x'], '-o is for'),
        (['schema', 'good.yaml'], 'belongs to no file'),
    ],
)
def test_wrong_arguments(files: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert message in err
    assert call(capsys, 'look')[0] == 2


def test_a_missing_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, 'check', 'gone.yaml')[:2] == (2, 'gone.yaml: cannot be read: No such file or directory\n')


def test_schema(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, 'schema')
    assert code == 0
    assert json.loads(out) == json_schema()
    assert call(capsys, 'schema', '-o', 'schema.json')[:2] == (0, 'written: schema.json\n')
    assert json.loads((files / 'schema.json').read_text('utf-8')) == json_schema()


def test_files_are_checked_without_paddle(files: Path) -> None:
    code = (
        'import sys\nfrom paddleslim_ng.cli import main\n'
        'assert main(["config", "check", "good.yaml", "--no-import"]) == 0\nassert "paddle" not in sys.modules\n'
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, '-c', f'import sys; sys.path.insert(0, {str(root)!r})\n{code}'],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
