"""The project itself: what an import costs and loads, the tools that guard it, and its files."""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from tools import api_spec, check_layers

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ('matplotlib', 'sklearn', 'optuna', 'scipy', 'pydantic', 'tqdm')


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that sees this tree."""
    settings = {**os.environ, 'PYTHONPATH': str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, '-c', code], env=settings, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules among HEAVY that a statement loads and Paddle alone does not."""
    code = (
        'import sys, json, numpy, paddle\nbefore = set(sys.modules)\n'
        f'{statement}\n'
        'print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))'
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1])) & set(HEAVY)


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by('import paddleslim_ng') == set()


def test_submodules_load_nothing_heavy() -> None:
    assert loaded_by('import paddleslim_ng\n[getattr(paddleslim_ng, name) for name in paddleslim_ng.__all__]') == set()


def test_public_names_exist() -> None:
    for name in slim.__all__:
        assert getattr(slim, name) is not None
    assert set(slim.__all__) <= set(dir(slim))
    with pytest.raises(AttributeError, match='no attribute .nonsense.'):
        _ = slim.nonsense


def test_version_is_written_once() -> None:
    assert re.fullmatch(r'\d+\.\d+\.\d+', slim.__version__)
    assert 'paddleslim_ng.version.__version__' in (ROOT / 'pyproject.toml').read_text('utf-8')


@pytest.mark.parametrize(
    ('version', 'accepted'),
    [('2.5.2', False), ('1.8.5', False), ('2.6.0', True), ('3.0.0rc1', True), ('10.0.0', True), ('0.0.0', True)],
)
def test_paddle_version_is_checked(tmp_path: Path, version: str, accepted: bool) -> None:
    (tmp_path / 'paddle.py').write_text(f'__version__ = {version!r}\n', 'utf-8')
    done = python('import paddleslim_ng', PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert (done.returncode == 0) is accepted
    assert accepted or f'needs PaddlePaddle 2.6 or later, but this environment has {version}' in done.stderr


@pytest.mark.parametrize(('version', 'accepted'), [('2.5.2', False), ('2.6.0', True), ('0.0.0', True)])
def test_paddle_version_is_read_without_importing_paddle(tmp_path: Path, version: str, accepted: bool) -> None:
    (tmp_path / 'paddle' / 'version').mkdir(parents=True)
    (tmp_path / 'paddle' / '__init__.py').write_text('raise RuntimeError("imported")\n', 'utf-8')
    (tmp_path / 'paddle' / 'version' / '__init__.py').write_text(f"full_version     = '{version}'\n", 'utf-8')
    done = python('import paddleslim_ng', PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert 'imported' not in done.stderr
    assert (done.returncode == 0) is accepted
    assert accepted or f'needs PaddlePaddle 2.6 or later, but this environment has {version}' in done.stderr


def test_missing_paddle_is_explained() -> None:
    """`-S` hides the installed packages, `-I` everything else; an ImportError inside Paddle is shown as it is."""
    code = f'import sys; sys.path.insert(0, {str(ROOT)!r}); import paddleslim_ng'
    done = subprocess.run([sys.executable, '-I', '-S', '-c', code], capture_output=True, text=True, check=False)
    assert 'ImportError: paddleslim_ng needs PaddlePaddle 2.6 or later, and there is none' in done.stderr


def test_broken_paddle_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / 'paddle.py').write_text('import no_such_module\n', 'utf-8')
    done = python('import paddleslim_ng', PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr
    assert 'needs PaddlePaddle' not in done.stderr


BAD_IMPORTS = [
    ('core/x.py', 'import paddleslim_ng.runtime'),
    ('core/x.py', 'from paddleslim_ng.prune.pruner import Pruner'),
    ('core/x.py', 'def f():\n    from paddleslim_ng import prune'),
    ('core/x.py', 'from ..analysis import flops'),
    ('core/deep/x.py', 'from ...analysis import flops'),
    (
        'core/x.py',
        'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from paddleslim_ng.models import MobileNet',
    ),
    ('runtime/x.py', 'from paddleslim_ng.analysis import flops'),
    ('analysis/x.py', 'from paddleslim_ng import prune as p'),
    ('models/x.py', 'from paddleslim_ng.data import digits'),
    ('data/x.py', 'from paddleslim_ng.runtime import io'),
    ('sparse/x.py', 'from paddleslim_ng.prune import Pruner'),
    ('quant/x.py', 'from paddleslim_ng.dist import merge'),
    ('nas/x.py', 'from paddleslim_ng.search import ask'),
    ('compress/x.py', 'from paddleslim_ng.cli import main'),
    ('core/x.py', 'import paddleslim_ng'),
    ('core/x.py', 'from paddleslim_ng import Executor'),
    ('core/x.py', 'from paddleslim_ng import *'),
    ('errors.py', 'from paddleslim_ng.core import Executor'),
    ('errors.py', 'from paddleslim_ng.version import __version__'),
    ('helpers.py', 'x = 1'),
]
BAD_INTERNALS = [
    'import paddle.base',
    'import paddle.fluid as fluid',
    'from paddle import base',
    'from paddle.base import core',
    'from paddle.base.libpaddle import pir',
    'from paddle.framework import core',
    'import paddle\nx = paddle.base.core',
    'import paddle as P\nx = P.base.core.Scope()',
    'from paddle import framework as f\nx = f.core',
    'def f(m):\n    return m.libpaddle.pir',
    'import importlib\nm = importlib.import_module("paddle.base.core")',
    'import sys\nm = sys.modules["paddle.libpaddle"]',
]
GOOD = [
    ('core/x.py', 'from paddleslim_ng.core.editor import verbs\nfrom paddleslim_ng.errors import SlimError'),
    (
        'core/x.py',
        '"""Speaks of paddle.base and libpaddle."""\nimport paddle  # paddle.base\nx = paddle.static.Scope()',
    ),
    ('core/x.py', 'from . import naming\nfrom .naming import set_name'),
    ('core/paddle_compat/pir.py', 'import paddle\nfrom paddle.base import core\nx = paddle.base.libpaddle'),
    ('runtime/x.py', 'from paddleslim_ng.core import Executor\nfrom paddleslim_ng import errors'),
    (
        'prune/x.py',
        'from paddleslim_ng import analysis, core, runtime, sparse\nfrom paddleslim_ng.version import __version__',
    ),
    ('cli/__main__.py', 'from paddleslim_ng.compress import Compressor\nfrom paddleslim_ng.models import MobileNet'),
    ('__init__.py', 'from paddleslim_ng import prune\nfrom paddleslim_ng.core import Executor'),
]


@pytest.mark.parametrize(('path', 'source'), BAD_IMPORTS)
def test_layers_refuse(path: str, source: str) -> None:
    assert len(check_layers.check_source(source, Path(path))) == 1


@pytest.mark.parametrize('source', BAD_INTERNALS)
def test_internals_are_refused(source: str) -> None:
    found = check_layers.check_source(source, Path('runtime/x.py'))
    assert len(found) == 1
    assert 'internal of Paddle' in found[0].message
    assert found[0].line == source.count('\n') + 1
    assert check_layers.check_source(source, Path('core/paddle_compat/pir.py')) == []


@pytest.mark.parametrize(('path', 'source'), GOOD)
def test_layers_admit(path: str, source: str) -> None:
    assert check_layers.check_source(source, Path(path)) == []


def test_layers_have_no_cycle() -> None:
    """Each layer can be placed after all that it may import."""
    placed: set[str] = set()
    while len(placed) < len(check_layers.ALLOWED):
        ready = {layer for layer, below in check_layers.ALLOWED.items() if below <= placed}
        assert ready - placed
        placed |= ready


def test_layer_check_names_the_file(tmp_path: Path) -> None:
    (tmp_path / 'core').mkdir()
    (tmp_path / 'core' / 'bad.py').write_text('x = 1\nimport paddleslim_ng.prune\n', 'utf-8')
    tool = ROOT / 'tools' / 'check_layers.py'
    done = subprocess.run([sys.executable, tool, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "bad.py:2: 'core' must not import 'prune'" in done.stdout


SAMPLE = '''
from __future__ import annotations
import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
__all__ = ['Choice', 'Thing', 'Record', 'LIMIT', 'run', 'again']
LIMIT = 3
class Choice(enum.Enum):
    """Choices."""
    A = 1
class Base:
    def inherited(self, x: int | None = None) -> None:
        """Inherited."""
class Thing(Base):
    """A thing.

    More.
    """
    def __init__(self, a, /, b: Sequence[int] = (), *rest: str, key: Choice = Choice.A): ...
    def __call__(self) -> None: ...
    @property
    def size(self) -> int:
        """Its size."""
    @classmethod
    def make(cls) -> Thing: ...
    @staticmethod
    def help(x=len, y={'b', 'a'}, z=object, **more): ...
    def _private(self): ...
@dataclass
class Record:
    """Record."""
    x: int
    y: list[int] = field(default_factory=list)
def run(x: float = 1e-6, *, f=sorted) -> dict[str, int]:
    """Run."""
again = run
'''


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one public module, and a tool that takes it for the package to be described."""
    folder = tmp_path / 'sample_api'
    folder.mkdir()
    (folder / '__init__.py').write_text('from sample_api.inner import Thing\n__all__ = ["Thing"]\n', 'utf-8')
    (folder / 'inner.py').write_text(SAMPLE, 'utf-8')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(api_spec, 'PACKAGE', 'sample_api')
    for name in [name for name in sys.modules if name.split('.')[0] == 'sample_api']:
        monkeypatch.delitem(sys.modules, name)
    return folder


def test_api_spec_renders(sample: Path) -> None:
    lines = api_spec.build_spec()
    assert lines == sorted(lines)
    signatures = [re.sub(r", \('document', '[0-9a-f]{32}'\)\)$", '', line) for line in lines]
    assert signatures == [
        'sample_api.Thing (the same as sample_api.inner.Thing)',
        'sample_api.inner.Choice (class',
        'sample_api.inner.Choice.A (1',
        'sample_api.inner.LIMIT (int)',
        'sample_api.inner.Record (class',
        'sample_api.inner.Record.__init__ ((self, x: int, y: list[int] = <factory>) -> None',
        'sample_api.inner.Thing (class',
        'sample_api.inner.Thing.__call__ ((self) -> None',
        'sample_api.inner.Thing.__init__ ((self, a, /, b: Sequence[int] = (), *rest: str, key: Choice = Choice.A)',
        """sample_api.inner.Thing.help (staticmethod (x = len, y = {'a', 'b'}, z = object, **more)""",
        'sample_api.inner.Thing.inherited ((self, x: int | None = None) -> None',
        'sample_api.inner.Thing.make (classmethod (cls) -> Thing',
        'sample_api.inner.Thing.size (property -> int',
        'sample_api.inner.again (the same as sample_api.inner.run)',
        'sample_api.inner.run ((x: float = 1e-06, *, f = sorted) -> dict[str, int]',
    ]


def test_api_spec_notices_a_docstring(sample: Path) -> None:
    before = api_spec.build_spec()
    for name in ('sample_api', 'sample_api.inner'):
        del sys.modules[name]
    (sample / 'inner.py').write_text(SAMPLE.replace('"""Its size."""', '"""Its size, in bytes."""'), 'utf-8')
    changed = set(api_spec.build_spec()) ^ set(before)
    assert len(changed) == 2
    assert all('.Thing.size ' in line for line in changed)


def test_api_spec_is_the_same_on_every_machine() -> None:
    """A default value that is computed, such as the running interpreter, would make it differ."""
    spec = (ROOT / 'API.spec').read_text('utf-8')
    assert [place for place in (str(ROOT), sys.prefix, str(Path.home())) if place in spec] == []


def test_api_spec_check_fails_on_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = str(tmp_path / 'API.spec')
    monkeypatch.setattr(sys, 'argv', ['api_spec.py', '--output', spec])
    assert api_spec.main() == 0
    monkeypatch.setattr(sys, 'argv', ['api_spec.py', '--check', '--output', spec])
    assert api_spec.main() == 0
    assert capsys.readouterr().out == ''
    text = Path(spec).read_text('utf-8')
    Path(spec).write_text(text.replace('1e-06', '1e-05'), 'utf-8')
    assert api_spec.main() == 1
    shown = capsys.readouterr().out
    assert '1e-05' in shown
    assert '1e-06' in shown
    assert 'Record' not in shown
    assert logging.root.manager.disable == logging.NOTSET, 'warnings of what runs next in this process are lost'


def test_fixtures_give_a_fresh_program(fresh, ir: str) -> None:
    x = paddle.static.data('x', [2, 3], 'float32')
    y = paddle.nn.Linear(3, 4)(x)
    fresh.exe.run(fresh.startup)
    (out,) = fresh.exe.run(fresh.main, feed={'x': np.ones([2, 3], 'float32')}, fetch_list=[y])
    assert out.shape == (2, 4)
    assert fresh.scope.find_var('linear_0.w_0') is not None
    assert ir == ('pir' if type(y).__name__ == 'Value' else 'legacy')


def test_no_folder_of_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    """Given tests/, pytest leaves out folders by their names, without a word; tests/dist was one of them."""
    folders = {folder.name for path in (ROOT / 'tests').rglob('test_*.py') for folder in path.relative_to(ROOT).parents}
    patterns = pytestconfig.getini('norecursedirs')
    assert 'dist' in folders
    assert not [name for name in folders for pattern in patterns if fnmatch.fnmatch(name, pattern)]


def test_every_script_parses() -> None:
    """`sh -n` reads a script without running it."""
    for script in (ROOT / '.ci' / 'run', ROOT / 'tools' / 'create_venv.sh'):
        shell = script.read_text('utf-8').splitlines()[0].split()[-1].rpartition('/')[2]
        assert os.access(script, os.X_OK)
        assert subprocess.run([shell, '-n', str(script)], check=False).returncode == 0


def test_pins_cover_every_supported_python() -> None:
    for configuration, paddle_version in (('paddle33', '3.3.1'), ('paddle26', '2.6.2')):
        for minor in (9, 10, 11, 12):
            lines = (ROOT / 'requirements' / f'{configuration}-py3.{minor}.txt').read_text('utf-8').splitlines()[1:]
            assert f'paddlepaddle=={paddle_version}' in lines
            assert all('==' in line and '/' not in line for line in lines)


@pytest.mark.parametrize('broken', ['', 'lint', 'test', 'test-paddle26'])
def test_ci_runs_every_step_and_fails_if_one_does(tmp_path: Path, broken: str) -> None:
    targets = ('lint', 'test', 'test-paddle26')
    recipes = [f'{target}:\n\t@{"false" if target == broken else "true"}\n' for target in targets]
    (tmp_path / 'Makefile').write_text(''.join(recipes), 'utf-8')
    (tmp_path / '.ci').mkdir()
    (tmp_path / '.ci' / 'run').write_bytes((ROOT / '.ci' / 'run').read_bytes())
    done = subprocess.run(['bash', '.ci/run'], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is (not broken)
    assert all(f'== make {target} ' in done.stdout for target in targets)
    assert not broken or f'failed: {broken}\n' in done.stdout
