"""Files that are missing, cut, foreign or unwritable: a typed error that names them, and nothing is touched."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import has_array, load_array, paddle_compat, store_array
from paddleslim_ng.errors import DataError, SlimError, UnsupportedOpError
from paddleslim_ng.runtime import atomic, convert_model, load_inference_model, save_inference_model
from paddleslim_ng.runtime.atomic import publish_together
from paddleslim_ng.runtime.parameter_file import write_combined

MODELS = Path(__file__).parent / 'models'
needs_pir = pytest.mark.skipif(not paddle_compat.has_pir(), reason='this Paddle has no PIR')
FORMATS = ['pdmodel', pytest.param('json', marks=needs_pir)]
STORED = {'pdmodel': 'paddle33_legacy', 'json': 'paddle33_pir'}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in MODELS.iterdir():
        if path.suffix in ('.pdmodel', '.json', '.pdiparams'):
            shutil.copy(path, tmp_path)
    return tmp_path


def refused(prefix: Path, error: type[SlimError], match: str) -> SlimError:
    """Check that loading fails with this error and leaves the scope as it was."""
    scope = paddle.static.Scope()
    store_array(scope, 'conv2d_0.w_0', np.full([4, 1, 3, 3], 7, 'float32'))
    with pytest.raises(error, match=match) as caught:
        load_inference_model(prefix, scope)
    assert np.asarray(scope.find_var('conv2d_0.w_0').get_tensor()).min() == 7
    assert scope.find_var('conv2d_0.b_0') is None or not has_array(scope, 'conv2d_0.b_0')
    return caught.value


def operators(content: Any) -> Any:
    return content['program']['regions'][0]['blocks'][0]['ops']


def convolution(content: Any) -> Any:
    return next(op for op in operators(content) if op['#'] == '1.conv2d')


@pytest.mark.parametrize('format', FORMATS)
def test_parameters(folder: Path, format: str) -> None:
    prefix = folder / STORED[format]
    parameters = prefix.with_suffix('.pdiparams')
    whole = parameters.read_bytes()
    for size in (0, 5, 40, len(whole) - 1):
        parameters.write_bytes(whole[:size])
        refused(prefix, DataError, f'{STORED[format]}.pdiparams .*truncated')
    parameters.write_bytes(whole + whole)
    refused(prefix, DataError, 'belongs to another model')
    parameters.unlink()
    refused(prefix, DataError, 'parameters, and .*pdiparams is missing')


@pytest.mark.parametrize('format', FORMATS)
def test_parameters_of_another_model(folder: Path, format: str) -> None:
    scope = paddle.static.Scope()
    load_inference_model(folder / STORED[format], scope)
    store_array(scope, 'linear_0.b_0', np.zeros([4], 'float32'))
    names = ['conv2d_0.w_0', 'conv2d_0.b_0', 'linear_0.w_0', 'linear_0.b_0']
    names += [f'batch_norm2d_0.{part}' for part in ('w_0', 'b_0', 'w_1', 'w_2')]
    path = (folder / STORED[format]).with_suffix('.pdiparams')
    path.unlink()
    write_combined(path, {name: load_array(scope, name) for name in names})
    refused(folder / STORED[format], DataError, r"shape \[4\] where the program has the parameter 'linear_0.b_0'")


def test_a_cut_pdmodel(folder: Path) -> None:
    path = folder / 'paddle33_legacy.pdmodel'
    whole = path.read_bytes()
    for size in [0, 1, 2, *range(3, len(whole), 97)]:
        path.write_bytes(whole[:size])
        refused(folder / 'paddle33_legacy', DataError, r'paddle33_legacy.pdmodel (is|has|uses)')
    path.write_bytes(b'hello, world')
    refused(folder / 'paddle33_legacy', DataError, 'damaged or truncated')


def test_a_foreign_operator_in_a_pdmodel(folder: Path) -> None:
    path = folder / 'paddle33_legacy.pdmodel'
    path.write_bytes(path.read_bytes().replace(b'concat', b'conkat'))
    error = refused(folder / 'paddle33_legacy', UnsupportedOpError, r'conkat \(1x\)')
    assert isinstance(error, UnsupportedOpError) and error.op == 'conkat'
    with pytest.raises(UnsupportedOpError, match='conkat'):
        convert_model(folder / 'paddle33_legacy', folder / 'new', format='pdmodel')
    assert not list(folder.glob('*new*'))


def test_an_undeclared_variable_in_a_pdmodel(folder: Path) -> None:
    path = folder / 'paddle33_legacy.pdmodel'
    whole = path.read_bytes()
    name = b'linear_0.b_0'
    first = whole.index(name)
    path.write_bytes(whole[:first] + b'linear_0.c_0' + whole[first + len(name) :])
    refused(
        folder / 'paddle33_legacy',
        DataError,
        r'paddle33_legacy.pdmodel is damaged.*linear_0.\w_0.* is not (found|declared)',
    )


def test_a_program_that_is_no_inference_model(tmp_path: Path) -> None:
    (tmp_path / 'net.pdmodel').write_bytes(b'\x0a\x04\x08\x00\x10\x00')  # one empty block
    refused(tmp_path / 'net', DataError, 'no inference model|damaged')


FAULTS: dict[str, tuple[Callable[[Any], Any], type[SlimError], str]] = {
    'no program': (lambda c: c.pop('program'), DataError, 'damaged or no PIR program'),
    'no header': (lambda c: c.pop('base_code'), DataError, 'damaged or no PIR program'),
    'another header': (lambda c: c['base_code'].update(magic='x'), DataError, "header says 'x'"),
    'no regions': (lambda c: c.update(program={}), DataError, 'damaged or no PIR program'),
    'foreign operator': (lambda c: convolution(c).update({'#': '1.conv9d'}), UnsupportedOpError, r'conv9d \(1x\)'),
    'foreign dialect': (lambda c: convolution(c).update({'#': 'zz.conv2d'}), DataError, 'paddle33_pir.json is damaged'),
    'custom operator': (lambda c: convolution(c).update({'#': '3.mine'}), UnsupportedOpError, r'mine \(1x\)'),
    'undefined value': (lambda c: convolution(c)['I'][0].update({'%': 999}), DataError, 'reads value 999'),
    'no attributes': (lambda c: convolution(c).update(A=[]), DataError, r'conv2d has no attributes \['),
    'an operand less': (lambda c: convolution(c)['I'].pop(), DataError, '1 operands instead of 2'),
    'no operands': (lambda c: convolution(c).pop('I'), DataError, 'paddle33_pir.json is damaged'),
    'no results': (lambda c: convolution(c).pop('O'), DataError, 'damaged or no PIR program'),
    'unknown type': (
        lambda c: convolution(c)['O'][0]['TT'].update({'#': '0.t_zz'}),
        DataError,
        'paddle33_pir.json is damaged',
    ),
    'no outputs': (
        lambda c: operators(c).remove(next(op for op in operators(c) if op['#'] == '1.fetch')),
        DataError,
        'no inference model',
    ),
}


@needs_pir
@pytest.mark.parametrize('fault', FAULTS)
def test_faults_in_a_json(folder: Path, fault: str) -> None:
    damage, error, match = FAULTS[fault]
    path = folder / 'paddle33_pir.json'
    content = json.loads(path.read_bytes())
    damage(content)
    path.write_text(json.dumps(content))
    refused(folder / 'paddle33_pir', error, match)


@needs_pir
def test_a_cut_json(folder: Path) -> None:
    path = folder / 'paddle33_pir.json'
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(folder / 'paddle33_pir', DataError, 'paddle33_pir.json is damaged or truncated')


def test_missing_files(folder: Path) -> None:
    refused(folder / 'none', DataError, r'none.(json|pdmodel) or none.(json|pdmodel) is missing')
    refused(folder / 'none' / 'deep', DataError, 'is missing')


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize('format', FORMATS)
@pytest.mark.parametrize('size', [100, 4096])
def test_a_full_disk_leaves_the_old_model(tmp_path: Path, format: str, size: int) -> None:
    model = load_inference_model(MODELS / STORED[format], paddle.static.Scope())
    arguments = (model.program, tmp_path / 'net', model.feeds, model.fetches, model.scope)
    save_inference_model(*arguments, format=format)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with files_limited_to(size), pytest.raises(DataError, match='net'):
        save_inference_model(*arguments, format=format, check=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='cannot write the inference model .*file/net'):
        convert_model(MODELS / 'paddle33_legacy', tmp_path / 'file' / 'net', format='pdmodel')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_files_appear_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ('a', 'b', 'c')
    for name in names:
        (tmp_path / f'new_{name}').write_text(f'new {name}')
    for name in ('a', 'b'):
        (tmp_path / name).write_text(f'old {name}')
    pairs = [(tmp_path / f'new_{name}', tmp_path / name) for name in names]
    publish = atomic.publish

    def fails(source: Any, target: Any) -> None:
        if Path(target).name == 'c':
            raise OSError('no space left')
        publish(source, target)

    monkeypatch.setattr(atomic, 'publish', fails)
    with pytest.raises(OSError, match='no space left'):
        publish_together(pairs)
    assert [(tmp_path / name).read_text() for name in ('a', 'b')] == ['old a', 'old b']
    assert not (tmp_path / 'c').exists() and not list(tmp_path.glob('.*'))
    monkeypatch.undo()
    for name in ('a', 'b'):
        (tmp_path / f'new_{name}').write_text(f'new {name}')
    publish_together(pairs)
    assert [(tmp_path / name).read_text() for name in names] == ['new a', 'new b', 'new c']
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a', 'b', 'c']
