"""Inference models of both formats, of several versions of Paddle, in either IR."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng import runtime
from paddleslim_ng.core import Executor, GraphWrapper, is_pir_program, load_array, paddle_compat
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.runtime import convert_model, load_inference_model, save_inference_model
from paddleslim_ng.runtime.parameter_file import read_combined
from tests.runtime.models.make_models import image, network

MODELS = Path(__file__).parent / 'models'
HAS_PIR = paddle_compat.has_pir()
PIR_BY_DEFAULT = HAS_PIR and paddle.get_flags('FLAGS_enable_pir_api')['FLAGS_enable_pir_api']
needs_pir = pytest.mark.skipif(not HAS_PIR, reason='this Paddle has one IR')
IRS = [None, 'legacy', pytest.param('pir', marks=needs_pir)]


def stored(name: str) -> Any:
    return np.load(MODELS / f'{name}.npy')


def outputs(model: Any) -> Any:
    return Executor().run(model.program, {'image': image()}, model.fetches, scope=model.scope)[0]


def paddles_own(prefix: Path, pir: bool) -> Any:
    """Load and run a model with nothing but Paddle."""
    with ir_mode(pir):
        scope, exe = paddle.static.Scope(), paddle.static.Executor(paddle.CPUPlace())
        with paddle.static.scope_guard(scope):
            program, feeds, fetches = paddle.static.load_inference_model(str(prefix), exe)
            assert feeds == ['image']
            return exe.run(program, feed={'image': image()}, fetch_list=fetches, scope=scope)[0]


@pytest.fixture
def program(fresh: Any) -> tuple[Any, Any]:
    """The program of the stored models in the IR of this configuration, with its output."""
    out = network(paddle.static.data('image', [None, 1, 8, 8]))
    fresh.exe.run(fresh.startup)
    return fresh.main, out


@pytest.mark.parametrize('ir', IRS)
@pytest.mark.parametrize('name', ['paddle26', 'paddle33_legacy', pytest.param('paddle33_pir', marks=needs_pir)])
def test_models_of_other_versions(name: str, ir: str | None) -> None:
    model = load_inference_model(MODELS / name, paddle.static.Scope(), ir=ir)
    assert model.feeds == ['image'] and len(model.fetches) == 1
    assert is_pir_program(model.program) == (ir == 'pir' if ir else name.endswith('pir'))
    np.testing.assert_allclose(outputs(model), stored(name), rtol=0, atol=1e-6)
    graph = GraphWrapper(model.program)
    assert {'conv2d_0.w_0', 'batch_norm2d_0.w_1', 'linear_0.b_0'} <= {var.name() for var in graph.all_parameters()}
    assert [op.type() for op in graph.ops() if op.type() in ('conv2d', 'split', 'concat')] == [
        'conv2d',
        'split',
        'concat',
    ]


@pytest.mark.parametrize('format', ['pdmodel', pytest.param('json', marks=needs_pir), None])
def test_saved_models_are_paddles(program: Any, fresh: Any, tmp_path: Path, format: str | None, ir: str) -> None:
    main, out = program
    saved = save_inference_model(main, tmp_path / 'net', ['image'], [out], format=format)
    assert saved.program_file.suffix == (f'.{format}' if format else {'pir': '.json', 'legacy': '.pdmodel'}[ir])
    assert saved.difference is not None and saved.difference <= 1e-6
    expected = outputs(load_inference_model(tmp_path / 'net', paddle.static.Scope()))
    np.testing.assert_allclose(
        paddles_own(tmp_path / 'net', saved.program_file.suffix == '.json'), expected, rtol=0, atol=1e-6
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in (saved.program_file, saved.parameter_file)
    )
    if saved.program_file.suffix == '.pdmodel':
        assert b'XShape' in saved.program_file.read_bytes()
        assert b'.py' not in saved.program_file.read_bytes()  # no traces of where it was made


@needs_pir
def test_conversion_there_and_back(tmp_path: Path) -> None:
    first = convert_model(MODELS / 'paddle33_pir', tmp_path / 'a', format='pdmodel')
    second = convert_model(tmp_path / 'a', tmp_path / 'b', format='json')
    third = convert_model(tmp_path / 'b', tmp_path / 'c', format='pdmodel')
    for saved, pir in ((first, False), (second, True), (third, False)):
        assert saved.difference == 0.0
        prefix = saved.program_file.with_suffix('')
        np.testing.assert_allclose(paddles_own(prefix, pir), stored('paddle33_pir'), rtol=0, atol=1e-6)
        assert saved.parameter_file.read_bytes() == (MODELS / 'paddle33_pir.pdiparams').read_bytes()
    beside = convert_model(tmp_path / 'a', tmp_path / 'a', format='json')
    assert beside.program_file == tmp_path / 'a.json' and first.program_file.exists()
    for ir in ('pir', 'legacy'):
        model = load_inference_model(tmp_path / 'a', paddle.static.Scope(), ir=ir)
        np.testing.assert_allclose(outputs(model), stored('paddle33_pir'), rtol=0, atol=1e-6)


@needs_pir
def test_two_formats_never_share_parameters_of_one(tmp_path: Path) -> None:
    convert_model(MODELS / 'paddle33_pir', tmp_path / 'a', format='json')
    model = load_inference_model(MODELS / 'paddle33_pir', paddle.static.Scope())
    model.scope.find_var('linear_0.b_0').get_tensor().set(np.ones([3], 'float32'), paddle.CPUPlace())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match=r'a.json exists and reads .*a.pdiparams'):
        save_inference_model(model.program, tmp_path / 'a', model.feeds, None, model.scope, format='pdmodel')
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    save_inference_model(model.program, tmp_path / 'a', model.feeds, None, model.scope, format='json')
    assert (tmp_path / 'a.pdiparams').read_bytes() != before[tmp_path / 'a.pdiparams']


def old_folder(folder: Path, combined: str | None) -> None:
    """Lay the stored model out as Paddle 1 did."""
    folder.mkdir()
    shutil.copy(MODELS / 'paddle26.pdmodel', folder / '__model__')
    if combined:
        shutil.copy(MODELS / 'paddle26.pdiparams', folder / combined)
        return
    # Save the parameters through Paddle, each in a file of its own.
    with ir_mode(pir=False):
        scope, exe = paddle.static.Scope(), paddle.static.Executor(paddle.CPUPlace())
        with paddle.static.scope_guard(scope):
            program, _, _ = paddle.static.load_inference_model(str(MODELS / 'paddle26'), exe)
            names = [var.name() for var in GraphWrapper(program).all_parameters()]
            block = paddle.static.Program().global_block()
            for name in names:
                array = load_array(scope, name)
                var = block.create_var(name=name, shape=list(array.shape), dtype='float32', persistable=True)
                block.append_op(type='save', inputs={'X': [var]}, attrs={'file_path': str(folder / name)})
            exe.run(block.program, scope=scope)


def test_old_folders(tmp_path: Path) -> None:
    old_folder(tmp_path / 'separate', None)
    old_folder(tmp_path / 'combined', '__params__')
    old_folder(tmp_path / 'named', 'weights')
    for folder, names in (
        ('separate', {}),
        ('separate', {'model_filename': '__model__'}),
        ('combined', {}),
        ('combined', {'params_filename': '__params__'}),
        ('named', {'model_filename': '__model__', 'params_filename': 'weights'}),
    ):
        model = load_inference_model(tmp_path / folder, paddle.static.Scope(), **names)
        np.testing.assert_allclose(outputs(model), stored('paddle26'), rtol=0, atol=1e-6)
    with pytest.raises(DataError, match='is missing'):
        load_inference_model(tmp_path / 'named', params_filename='other')
    with pytest.raises(DataError, match='No such file'):
        load_inference_model(tmp_path / 'named', paddle.static.Scope())
    saved = convert_model(tmp_path / 'separate', tmp_path / 'new', format='pdmodel')
    assert saved.parameter_file.read_bytes() == (MODELS / 'paddle26.pdiparams').read_bytes()


def test_file_names_as_paddles_users_pass_them() -> None:
    for names in (
        {'model_filename': 'paddle26', 'params_filename': 'paddle26'},
        {'model_filename': 'paddle26.pdmodel', 'params_filename': 'paddle26.pdiparams'},
    ):
        model = load_inference_model(MODELS, paddle.static.Scope(), **names)
        np.testing.assert_allclose(outputs(model), stored('paddle26'), rtol=0, atol=1e-6)


def test_dynamic_mode(tmp_path: Path) -> None:
    paddle.disable_static()
    model = load_inference_model(MODELS / 'paddle26', paddle.static.Scope())
    saved = save_inference_model(*(model.program, tmp_path / 'net', model.feeds), scope=model.scope)
    assert paddle.in_dynamic_mode() and saved.difference is not None and saved.difference <= 1e-6
    np.testing.assert_allclose(outputs(model), stored('paddle26'), rtol=0, atol=1e-6)


class Recurrent(paddle.nn.Layer):
    """A dygraph network whose recorded program has a parameter that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = paddle.nn.LSTM(8, 6, 2)
        self.classify = paddle.nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        y, (hidden, _) = self.lstm(x)
        return self.classify(y[:, -1]), hidden


@pytest.mark.skipif(not PIR_BY_DEFAULT, reason='Paddle records recurrent layers in its default IR only')
def test_a_recurrent_dygraph_network(tmp_path: Path) -> None:
    paddle.disable_static()
    net = Recurrent()
    net.eval()
    inputs = [paddle.static.InputSpec([None, 5, 8], 'float32', name='x')]
    paddle.jit.save(paddle.jit.to_static(net, input_spec=inputs, full_graph=True), str(tmp_path / 'net'))
    x = np.random.default_rng(0).standard_normal((3, 5, 8)).astype('float32')
    expected = [array.numpy() for array in net(paddle.to_tensor(x))]
    assert convert_model(tmp_path / 'net', tmp_path / 'old', format='pdmodel').difference == 0.0
    for name, ir in (('net', 'pir'), ('old', 'legacy'), ('old', 'pir')):
        model = load_inference_model(tmp_path / name, paddle.static.Scope(), ir=ir)
        found = Executor().run(model.program, {'x': x}, model.fetches, scope=model.scope)
        for before, after in zip(expected, found):
            np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)


def test_a_model_without_parameters(fresh: Any, tmp_path: Path) -> None:
    x = paddle.static.data('image', [None, 2])
    y = paddle.nn.functional.relu(x)
    saved = save_inference_model(fresh.main, tmp_path / 'net', [x], [y])
    assert read_combined(saved.parameter_file, []) == {}
    saved.parameter_file.unlink()  # Paddle writes none
    model = load_inference_model(tmp_path / 'net', paddle.static.Scope())
    feed = {'image': np.array([[-1, 2]], 'float32')}
    assert Executor().run(model.program, feed, model.fetches, scope=model.scope)[0].tolist() == [[0, 2]]


def test_inputs_and_outputs_of_every_kind(fresh: Any, tmp_path: Path) -> None:
    x, label = paddle.static.data('image', [None, 2]), paddle.static.data('label', [None, 2])
    y = paddle.nn.functional.relu(x + 1)
    paddle.nn.functional.square_error_cost(y, label)
    for format in ('pdmodel', 'json') if HAS_PIR else ('pdmodel',):
        prefix = tmp_path / format
        saved = save_inference_model(fresh.main, prefix, [x], [y, x, y], format=format)
        assert saved.difference == 0.0
        model = load_inference_model(prefix, paddle.static.Scope())
        feed = {'image': np.array([[-1, 2]], 'float32')}
        found = Executor().run(model.program, feed, model.fetches, scope=model.scope)
        assert [array.tolist() for array in found] == [[[0, 3]], [[-1, 2]], [[0, 3]]]
        with pytest.raises(GraphError, match=r"no output depends on \['label'\]: leave them out"):
            save_inference_model(fresh.main, tmp_path / 'none', [x, label], [y], format=format)
    assert not list(tmp_path.glob('*none*'))


def test_unknown_words() -> None:
    with pytest.raises(ConfigError, match="ir must be 'pir' or 'legacy'"):
        load_inference_model(MODELS / 'paddle26', ir='pdmodel')
    with pytest.raises(ConfigError, match="format must be 'json' or 'pdmodel'"):
        convert_model(MODELS / 'paddle26', 'x', format='onnx')
    with pytest.raises(ConfigError, match="format must be 'json' or 'pdmodel'"):
        save_inference_model(paddle.static.Program(), 'x', [], [], format='.json')


@pytest.mark.skipif(HAS_PIR, reason='this Paddle has both IRs')
def test_pir_needs_paddle_3(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match='has no PIR'):
        load_inference_model(MODELS / 'paddle33_pir')
    with pytest.raises(GraphError, match='has no PIR'):
        load_inference_model(MODELS / 'paddle26', paddle.static.Scope(), ir='pir')
    with pytest.raises(GraphError, match='has no PIR'):
        convert_model(MODELS / 'paddle26', tmp_path / 'x', format='json')
    assert list(tmp_path.iterdir()) == []


def test_names_are_exported() -> None:
    assert {'save_inference_model', 'load_inference_model', 'convert_model'} <= set(runtime.__all__)
