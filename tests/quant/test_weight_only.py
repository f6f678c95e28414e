"""Weight-only quantization: numpy's integers, files that Paddle and Paddle Lite run, and what cannot be quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, paddle_compat, store_array
from paddleslim_ng.errors import ConfigError, DataError, EquivalenceError, GraphError
from paddleslim_ng.quant import QuantizationSpec, decomposed_format, packing
from paddleslim_ng.quant.weight_only import quant_post_dynamic, quant_post_only_weight, quantize_weights
from paddleslim_ng.runtime import InferenceModel, load_inference_model, save_inference_model
from paddleslim_ng.runtime.predictor_process import PredictorProcess
from tests.quant import quantized_nets as nets

nn = paddle.nn
F = nn.functional


def body(x: Any) -> Any:
    x = F.relu(nn.Conv2D(3, 16, 3, padding=1)(x))
    x = F.relu(nn.Conv2D(16, 16, 3, groups=16)(x))
    x = F.relu(nn.Conv2D(16, 32, 1)(x))
    x = paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1)
    return nn.Linear(64, 10)(F.relu(nn.Linear(32, 64)(x)))


@pytest.fixture(name='net')
def a_net() -> nets.Net:
    return nets.build(body)


@pytest.fixture(name='folder')
def a_folder(net: nets.Net, tmp_path: Path) -> Path:
    save_inference_model(net.program, tmp_path / 'float' / 'model', net.feeds, net.fetches, net.scope)
    return tmp_path


def rounded(array: Any, axis: int | None, bits: int) -> Any:
    """Round to the nearest of the integers, halves away from zero, and scale back, with numpy alone."""
    limit = 2 ** (bits - 1) - 1
    others = None if axis is None else tuple(n for n in range(array.ndim) if n != axis)
    step = (np.abs(array.astype('float64')).max(axis=others, keepdims=True) / limit).astype('float32')
    steps = array * (np.float32(1) / step)
    return (np.trunc(steps + np.copysign(0.5 - 2.0**-25, steps)).clip(-limit, limit) * step).astype('float32')


@pytest.mark.parametrize('bits', [16, 8, 4])
@pytest.mark.parametrize('kind', ['abs_max', 'channel_wise_abs_max'])
def test_the_file_holds_what_numpy_says(kind: str, bits: int, net: nets.Net, tmp_path: Path) -> None:
    before, state = repr(GraphWrapper(net.program).ops()), nets.state_of(net)
    made = quantize_weights(
        InferenceModel(*net.model), tmp_path / 'model', weight_bits=bits, weight_quantize_type=kind, feed=net.feed
    )
    assert len(made.spec.operators) == 5
    values = {}
    for tensor in made.spec.of_kind('weight'):
        values[tensor.name] = rounded(state[tensor.name], tensor.axis, bits)
        np.testing.assert_array_equal(load_array(made.model.scope, tensor.name), values[tensor.name])
        assert np.unique(values[tensor.name] / values[tensor.name][values[tensor.name] != 0].min()).size <= 2**16
        if tensor.axis is None:
            assert np.unique(values[tensor.name]).size <= 2**bits - 1
    for name, array in values.items():
        store_array(net.scope, name, array)
    (expected,) = net.run()
    loaded = load_inference_model(tmp_path / 'model', paddle.static.Scope())
    (found,) = slim.Executor().run(loaded.program, net.feed, loaded.fetches, scope=loaded.scope)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert made.exported is not None and made.exported.agreement.difference < 1e-6
    assert max(made.exported.distinct.values()) <= 2**bits - 1
    assert QuantizationSpec.load(tmp_path / 'model.quantization.json') == made.spec
    for name, array in state.items():
        store_array(net.scope, name, array)
    nets.assert_untouched(net, before, state)


def test_sizes_are_those_of_the_bits(tmp_path: Path) -> None:
    net = nets.build(lambda x: nn.Linear(256, 512)(F.relu(nn.Linear(512, 256)(x))), (512,))
    count = 2 * 256 * 512
    for bits, group, share in ((16, None, 2.0), (8, None, 1.0), (4, None, 0.5), (4, 64, 0.5 + 4 / 64), (3, 128, 0.54)):
        made = quantize_weights(
            InferenceModel(*net.model), tmp_path / f'{bits}', weight_bits=bits, group_size=group, feed=net.feed
        )
        assert made.exported is not None
        parameters = made.exported.parameter_file.stat().st_size
        assert count * share < parameters < 1.03 * count * share + 4_000
        assert f'{made.exported.file_bytes:,} bytes, {made.exported.file_bytes / made.exported.float_bytes:.1%}' in str(
            made
        )
        assert count * made.bits_per_weight / 8 == pytest.approx(count * share, rel=0.04)
    plain = quantize_weights(
        InferenceModel(*net.model), tmp_path / 'plain', weight_bits=4, format='decomposed', feed=net.feed
    )
    assert plain.exported is not None and plain.exported.parameter_file.stat().st_size > count
    small = nets.build(lambda x: nn.Linear(90, 90)(x), (90,))
    made = quantize_weights(InferenceModel(*small.model), tmp_path / 'small', weight_bits=4, feed=small.feed)
    assert made.exported is not None and made.exported.parameter_file.stat().st_size > 90 * 90
    assert made.bits_per_weight == pytest.approx(8 + 32 / 90)


def test_groups_bring_four_bits_nearer(net: nets.Net, tmp_path: Path) -> None:
    (expected,) = net.run()
    errors = []
    for size in (None, 8):
        made = quantize_weights(InferenceModel(*net.model), weight_bits=4, group_size=size)
        (found,) = nets.run(made.model.program, made.model.scope, net.feed, made.model.fetches)
        errors.append(float(np.abs(found - expected).mean()))
    assert errors[1] < 0.9 * errors[0]


def test_paddle_inference_runs_the_packed_file(net: nets.Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, 'SMALLEST', 1)
    made = quantize_weights(InferenceModel(*net.model), tmp_path / 'model', weight_bits=4, group_size=8, feed=net.feed)
    assert made.exported is not None
    with PredictorProcess(made.exported.program_file, made.exported.parameter_file) as process:
        process.set_inputs(net.feed)
        process.run()
        found = next(iter(process.outputs().values()))
    (expected,) = nets.run(made.model.program, made.model.scope, net.feed, made.model.fetches)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [None, 5])
def test_both_irs_compute_the_same(
    size: int | None, net: nets.Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, 'SMALLEST', 1)
    made = quantize_weights(
        InferenceModel(*net.model), tmp_path / 'model', weight_bits=4, group_size=size, feed=net.feed
    )
    (expected,) = nets.run(made.model.program, made.model.scope, net.feed, made.model.fetches)
    for ir in ('legacy', 'pir') if paddle_compat.has_pir() else ('legacy',):
        loaded = load_inference_model(tmp_path / 'model', paddle.static.Scope(), ir=ir)
        (found,) = slim.Executor().run(loaded.program, net.feed, loaded.fetches, scope=loaded.scope)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_saved_model(folder: Path, net: nets.Net) -> None:
    made = quant_post_dynamic(folder / 'float' / 'model', folder / 'out', generate_test_model=True)
    assert quant_post_only_weight is quant_post_dynamic
    written = sorted(str(path.relative_to(folder / 'out').with_suffix('')) for path in (folder / 'out').rglob('*.*'))
    assert set(written) == {'quantized_model/model', 'quantized_model/model.quantization', 'test_model/model'}
    integers = load_inference_model(folder / 'out' / 'quantized_model' / 'model', paddle.static.Scope())
    floats = load_inference_model(folder / 'out' / 'test_model' / 'model', paddle.static.Scope())
    outputs = [
        np.asarray(slim.Executor().run(item.program, net.feed, item.fetches, scope=item.scope)[0])
        for item in (integers, floats)
    ]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)
    (before,) = net.run()
    assert 0 < np.abs(outputs[0] - before).max() < 0.05 * np.abs(before).max()
    assert len(made.spec.operators) == 4
    assert list(made.spec.skipped.values()) == ['depthwise_conv2d is not among quantizable_op_type']
    assert 'depthwise_conv2d is not among quantizable_op_type' in str(made)
    assert f'{made.floats.file_bytes:,} bytes' in str(made) if made.floats else False


def test_names_of_files(folder: Path) -> None:
    quant_post_dynamic(
        str(folder / 'float'),
        str(folder / 'out'),
        next(path.name for path in (folder / 'float').iterdir() if path.suffix != '.pdiparams'),
        'model.pdiparams',
        'small.pdmodel',
        'small.pdiparams',
        ['conv2d', 'depthwise_conv2d', 'mul'],
        16,
    )
    assert (folder / 'out' / 'quantized_model' / 'small.pdiparams').is_file()
    assert not (folder / 'out' / 'test_model').exists()


@pytest.mark.parametrize('bits', [8, 16])
def test_paddle_lite_stores_the_same_integers(bits: int, folder: Path, net: nets.Net) -> None:
    """Its converter makes integers of floats by the largest magnitude of a channel, and these are the same."""
    quant_post_dynamic(folder / 'float' / 'model', folder / 'out', weight_bits=bits, generate_test_model=True)
    model, precision = folder / 'out' / 'test_model' / 'model', f'int{bits}_storage'
    stored = slim.deploy.to_lite(model, folder / 'stored', 'x86', precision, feed=net.feed)
    assert stored.verification is not None and stored.changes['stored_products'] == 2
    assert {'conv2d x86 fp32', 'fc x86 fp32'} <= set(stored.nb.counts())
    large = nets.build(lambda x: nn.Linear(256, 256)(F.relu(nn.Linear(256, 256)(x))), (256,))
    model = quantize_weights(InferenceModel(*large.model), weight_bits=bits).model
    sizes = []
    for target, kind in (('x86', precision), ('arm', precision), ('arm', 'fp32')):
        out = folder / f'{target}_{kind}'
        made = slim.deploy.to_lite(
            model.program, out, target, kind, feeds=['x'], fetches=model.fetches, scope=model.scope, feed=large.feed
        )
        sizes.append(made.file_bytes)
    assert max(sizes[:2]) < (0.3 if bits == 8 else 0.55) * sizes[2]


def test_a_channel_of_zeros_stays_exactly_zero(net: nets.Net, tmp_path: Path) -> None:
    name = next(var.name() for var in GraphWrapper(net.program).all_parameters() if var.shape() == (32, 64))
    array = load_array(net.scope, name)
    array[:, 3] = 0
    store_array(net.scope, name, array)
    for size in (None, 8):
        made = quantize_weights(
            InferenceModel(*net.model), tmp_path / 'm', weight_bits=4, group_size=size, feed=net.feed
        )
        assert not load_array(made.model.scope, name)[:, 3].any()
        assert np.isfinite(nets.run(made.model.program, made.model.scope, net.feed, made.model.fetches)[0]).all()


def test_what_cannot_be_quantized(folder: Path, net: nets.Net) -> None:
    model = InferenceModel(*net.model)
    with pytest.raises(ConfigError, match=r"quantizable_op_type='mull' is not available.*mul"):
        quant_post_dynamic(folder / 'float' / 'model', folder / 'out', quantizable_op_type=['mull'])
    with pytest.raises(ConfigError, match='weight_quantize_type'):
        quant_post_dynamic(folder / 'float' / 'model', folder / 'out', weight_quantize_type='channel')
    with pytest.raises(ConfigError, match='bits must be'):
        quant_post_dynamic(folder / 'float' / 'model', folder / 'out', weight_bits=17)
    with pytest.raises(ConfigError, match='save_params_filename must be'):
        quant_post_dynamic(
            folder / 'float' / 'model', folder / 'out', save_model_filename='a', save_params_filename='b.pdiparams'
        )
    with pytest.raises(DataError):
        quant_post_dynamic(folder / 'float' / 'none', folder / 'out')
    next((folder / 'float').glob('*.pdiparams')).unlink()
    with pytest.raises(DataError, match=r'model\.pdiparams'):
        quant_post_dynamic(folder / 'float' / 'model', folder / 'out')
    with pytest.raises(ConfigError, match='wants quantized activations'):
        quantize_weights(model, folder / 'out' / 'm', format='quantize_linear')
    with pytest.raises(ConfigError, match='no weights can be quantized'):
        quantize_weights(model, folder / 'out' / 'm', quantizable_op_type=['conv2d_transpose'])
    with pytest.raises(ConfigError, match='no weights can be quantized.*not_quant_pattern'):
        quantize_weights(model, folder / 'out' / 'm', not_quant_pattern='_')
    with pytest.raises(GraphError, match='skip_tensor_list'):
        quantize_weights(model, folder / 'out' / 'm', skip_tensor_list=['none'])
    name = next(var.name() for var in GraphWrapper(net.program).all_parameters() if var.shape() == (32, 64))
    store_array(net.scope, name, np.full((32, 64), np.nan, 'float32'))
    with pytest.raises(DataError, match=f'the weight {name!r} cannot be quantized'):
        quantize_weights(model, folder / 'out' / 'm')
    net.scope.erase([name])
    with pytest.raises(GraphError, match=name):
        quantize_weights(model, folder / 'out' / 'm')
    assert not (folder / 'out').exists()


def test_a_damaged_file_is_not_saved(net: nets.Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, 'SMALLEST', 1)
    real = decomposed_format.pack
    monkeypatch.setattr(decomposed_format, 'pack', lambda integers: real(integers[::-1]))
    with pytest.raises(EquivalenceError, match='nothing was saved'):
        quantize_weights(InferenceModel(*net.model), tmp_path / 'm', weight_bits=4, feed=net.feed)
    assert not list(tmp_path.iterdir())


def test_embeddings_and_products(tmp_path: Path) -> None:
    """Half a megabyte of words and weights; the table by ``quant_embedding``, the products by this."""
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    main.random_seed = startup.random_seed = 1
    with (
        paddle.static.program_guard(main, startup),
        paddle.static.scope_guard(scope),
        paddle.utils.unique_name.guard(),
    ):
        ids = paddle.static.data('ids', [None, 8], 'int64')
        words = paddle.reshape(nn.Embedding(10_000, 64)(ids), [-1, 512])
        logits = nn.Linear(512, 512)(F.relu(nn.Linear(512, 512)(words)))
        paddle.static.Executor(paddle.CPUPlace()).run(startup)
    feed = {'ids': np.random.default_rng(0).integers(0, 10_000, (4, 8))}
    floats = InferenceModel(main, ['ids'], [logits], scope)
    before = nets.run(main, scope, feed, [logits])[0]
    saved = save_inference_model(main, tmp_path / 'float', ['ids'], [logits], scope, feed=feed)
    assert 'is a table of embeddings' in str(quantize_weights(floats, weight_bits=8))
    small = slim.quant.quant_embedding(main, paddle.CPUPlace(), {'quantize_type': 'row_wise'}, scope, keep_float=True)
    output = GraphWrapper(small).var(GraphWrapper.name_of(logits)).raw
    made = quantize_weights(
        InferenceModel(small, ['ids'], [output], scope), tmp_path / 'small', weight_bits=4, group_size=64, feed=feed
    )
    assert made.exported is not None
    assert saved.file_bytes > 4 * (640_000 + 2 * 512 * 512)
    assert made.exported.file_bytes < 640_000 * 68 / 64 + 2 * 512 * 512 * (0.5 + 4 / 64) + 40_000
    loaded = load_inference_model(made.exported.prefix, paddle.static.Scope())
    (found,) = slim.Executor().run(loaded.program, feed, loaded.fetches, scope=loaded.scope)
    assert np.abs(found - before).max() < 0.2 * np.abs(before).max()
