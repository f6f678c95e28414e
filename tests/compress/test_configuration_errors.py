"""Malformed files: each problem with file, line and remedy, and nothing is touched before that is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from paddleslim_ng.compress.configuration import ConfigurationError, load_config
from paddleslim_ng.errors import ConfigError
from tests.compress.malformed import ACT, ENTRIES, FILES, HEAD

TRACER = """\
import pathlib
from paddleslim_ng.compress.strategy import Strategy
pathlib.Path(__file__).with_name('imported').touch()

class Tracer(Strategy):
    def __init__(self, value, start_epoch=0, end_epoch=0):
        super().__init__(start_epoch, end_epoch)
        self.value = value
"""
CASES = {
    **FILES,
    **{name: (HEAD + text.rstrip('\n') + '\n', message) for name, (text, message) in ENTRIES.items()},
    **ACT,
}
# Lines of errors where no comment can stand.
LINES = {'empty': 1, 'exploding aliases': 6}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hold a module of the user's, which tells when it is imported, and a file to include."""
    (tmp_path / 'tracer.py').write_text(TRACER, 'utf-8')
    (tmp_path / 'good.yaml').write_text('pruners: {norm: {class: StructurePruner}}\n', 'utf-8')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)
    monkeypatch.delitem(sys.modules, 'tracer', raising=False)
    return tmp_path


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_there_are_many() -> None:
    assert len(CASES) == len(FILES) + len(ENTRIES) + len(ACT) >= 130


@pytest.mark.parametrize('name', CASES)
def test_malformed_files(folder: Path, name: str) -> None:
    text, message = CASES[name]
    file = folder / 'file.yaml'
    file.write_text(text, 'utf-8')
    before = contents(folder)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    error = caught.value
    assert isinstance(error, ConfigurationError)
    marked = [number for number, line in enumerate(text.splitlines(), 1) if '#!' in line]
    wanted = marked[0] if marked else LINES[name]
    said = [line for line in str(error).splitlines() if line.startswith(f'{file}:{wanted}: ')]
    assert any(message in line for line in said), str(error)
    assert wanted in [problem.place.line for problem in error.problems]
    assert contents(folder) == before
    assert 'tracer' not in sys.modules


def test_all_problems_come_at_once(folder: Path) -> None:
    file = folder / 'file.yaml'
    file.write_text(
        HEAD + '  a: {class: UniformPruneStrategy, target_ratio: 2}\n  b: {class: Nothing}\n  c: 3\n'
        'compressor:\n  epok: 1\n',
        'utf-8',
    )
    with pytest.raises(ConfigurationError) as caught:
        load_config(file)
    assert [problem.place.line for problem in caught.value.problems] == [4, 5, 6, 8]
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    ('content', 'message'),
    [(b'version: 1.0\n\xff\xfe: 1\n', ':2: is not UTF-8 text'), (None, 'cannot be read: No such file')],
)
def test_unreadable_files(folder: Path, content: bytes | None, message: str) -> None:
    file = folder / 'file.yaml'
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        load_config(file)


def test_a_mapping_has_keys_for_places() -> None:
    with pytest.raises(ConfigurationError, match=r'^<configuration>: compressor.epoch: must be a whole number'):
        load_config({'version': 1.0, 'compressor': {'epoch': 'x'}})
    with pytest.raises(ConfigurationError, match='is for files alone'):
        load_config({'version': 1.0, 'include': 'x.yaml', 'compressor': {}})


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f'{name}.yaml').write_text(text, 'utf-8')
    return folder / 'main.yaml'


COMMON = 'version: 1.0\ncompressor: {epoch: 1}\n'


def test_cycles_are_told_as_a_chain(folder: Path) -> None:
    main = write(folder, main=COMMON + 'include: one.yaml\n', one='include: [two.yaml]\n', two='\ninclude: main.yaml\n')
    with pytest.raises(ConfigurationError) as caught:
        load_config(main)
    paths = ' -> '.join(str(folder / f'{name}.yaml') for name in ('main', 'one', 'two', 'main'))
    assert str(caught.value) == f'{folder / "two.yaml"}:2: include: the files include each other: {paths}'


def test_deep_chains_are_refused(folder: Path) -> None:
    files = {f'f{number}': f'include: f{number + 1}.yaml\n' for number in range(20)}
    main = write(folder, main=COMMON + 'include: f0.yaml\n', **files, f20='pruners: {}\n')
    with pytest.raises(ConfigurationError, match='f14.yaml:1: include: more than 16 files include each other in a row'):
        load_config(main)
    assert 'pruners: {}' in (folder / 'f20.yaml').read_text('utf-8')


def test_a_missing_file_deep_down_is_told_with_its_chain(folder: Path) -> None:
    main = write(folder, main=COMMON + 'include: one.yaml\n', one='\n\ninclude: [gone.yaml]\n')
    with pytest.raises(
        ConfigurationError, match=r'one.yaml:3: include\[0\]: there is no file .*main.yaml -> .*one.yaml'
    ):
        load_config(main)


def test_problems_name_the_included_file(folder: Path) -> None:
    main = write(
        folder,
        main=COMMON + 'include: one.yaml\n',
        one='pruners:\n  norm:\n    class: StructurePruner\n    criterion: l1_norm\n',
    )
    with pytest.raises(ConfigurationError, match=r'one.yaml:4: pruners.norm.criterion: unknown key; did you mean'):
        load_config(main)
    (folder / 'one.yaml').write_text('pruners: [\n', 'utf-8')
    with pytest.raises(ConfigurationError, match='one.yaml:2: no YAML'):
        load_config(main)
    (folder / 'one.yaml').write_text('[a]\n', 'utf-8')
    with pytest.raises(ConfigurationError, match='one.yaml:1: the top of the file'):
        load_config(main)


def test_two_includes_that_disagree(folder: Path) -> None:
    one, two = (
        'pruners: {norm: {class: StructurePruner}}\n',
        '\npruners: {norm: {class: StructurePruner, heads: dims}}\n',
    )
    main = write(folder, main=COMMON + 'include: [one.yaml, two.yaml]\n', one=one, two=two)
    with pytest.raises(ConfigurationError, match=r'main.yaml:3: .*two.yaml:2 and .*one.yaml:1 define it differently'):
        load_config(main)
    main.write_text(
        COMMON + 'include: [one.yaml, two.yaml]\npruners: {norm: {class: StructurePruner, heads: heads}}\n', 'utf-8'
    )
    found = load_config(main).instances['norm'].options
    assert found is not None and found.model_dump()['heads'] == 'heads'


USERS: dict[str, tuple[str, str, str | None, str]] = {
    'missing module': ('strategies', 'nowhere_at_all.Mine', None, "there is no module 'nowhere_at_all'"),
    'missing class': ('strategies', 'own_module.Mime', 'class Mine: pass', "has no 'Mime'; did you mean 'Mine'"),
    'broken': ('strategies', 'own_module.Mine', '1 / 0', 'cannot be imported: ZeroDivisionError'),
    'needs more': ('strategies', 'own_module.Mine', 'import not_there', "there is no module 'not_there'"),
    'no strategy': ('strategies', 'own_module.Mine', 'class Mine: pass', 'no subclass of slim.compress.Strategy'),
    'no distiller': ('distillers', 'subprocess.Popen', None, 'no subclass of slim.compress.Distiller'),
    'no quantizer': ('quantizers', 'subprocess.Popen', None, 'has no method arguments()'),
    'no pruner': ('pruners', 'subprocess.Popen', None, 'has no method make(round_to)'),
    'function': ('controllers', 'os.system', None, 'is no class but builtin_function_or_method'),
    'number': ('strategies', 'own_module.Mine', 'Mine = 3', 'is no class but int'),
    'any arguments': (
        'strategies',
        'own_module.Mine',
        'from paddleslim_ng.compress.strategy import Strategy\n'
        'class Mine(Strategy):\n  def __init__(self, **args): ...',
        "takes '**args', which does not tell the keys",
    ),
}


@pytest.mark.parametrize('name', USERS)
def test_classes_of_the_user(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    section, path, source, message = USERS[name]
    monkeypatch.delitem(sys.modules, 'own_module', raising=False)
    if source is not None:
        (folder / 'own_module.py').write_text(source, 'utf-8')
    main = write(
        folder, main=f'version: 1.0\n{section}:\n  own:\n    class: {path}\ncompressor: {{epoch: 1, strategies: []}}\n'
    )
    with pytest.raises(ConfigurationError) as caught:
        load_config(main)
    assert str(caught.value).startswith(f'{main}:4: {section}.own.class: ')
    assert message in str(caught.value)
    assert load_config(main, import_classes=False).instances['own'].plugin is None


def test_problems_of_several_files_stay_together(folder: Path) -> None:
    main = write(
        folder,
        main='version: 1.0\ninclude: one.yaml\nstrategies:\n  a: 3\n  b: 4\ncompressor: {strategies: [c]}\n',
        one='distillers: {d: 5}\npruners: {e: 6}\n',
    )
    with pytest.raises(ConfigurationError) as caught:
        load_config(main)
    places = [str(problem.place).removeprefix(f'{folder}/') for problem in caught.value.problems]
    assert places in (
        ['main.yaml:4', 'main.yaml:5', 'main.yaml:6', 'one.yaml:1', 'one.yaml:2'],
        ['one.yaml:1', 'one.yaml:2', 'main.yaml:4', 'main.yaml:5', 'main.yaml:6'],
    )


def test_keys_of_a_users_class(folder: Path) -> None:
    text = (
        'version: 1.0\nstrategies:\n  own: {class: tracer.Tracer, valu: 3}\ncompressor: {epoch: 1, strategies: [own]}\n'
    )
    main = write(folder, main=text)
    with pytest.raises(ConfigurationError) as caught:
        load_config(main)
    assert "main.yaml:3: strategies.own.valu: unknown key; did you mean 'value'" in str(caught.value)
    assert 'strategies.own.value: is missing' in str(caught.value)
    assert (folder / 'imported').exists()
    (own,) = load_config(write(folder, main=text.replace('valu:', 'value:'))).create_strategies()
    assert (type(own).__name__, own.value, own.name) == ('Tracer', 3, 'own')
