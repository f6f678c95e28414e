"""From programs trained quantized to integers and files, on both IRs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, has_array, load_array, store_array
from paddleslim_ng.errors import ConfigError, DataError, EquivalenceError, GraphError
from paddleslim_ng.quant import convert, export_aware, float_program, quant_aware, spec_of
from paddleslim_ng.quant.aware_checks import check_trained
from tests.quant import training_nets as nets

CPU = paddle.CPUPlace()


def trained(config: Any = None, steps: int = 2) -> tuple[nets.TrainingNet, Any, Any]:
    """Return a net, its quantized training program, trained a little, and its quantized test program."""
    net = nets.build(optimizer=lambda: paddle.optimizer.Momentum(0.05, 0.9))
    test = quant_aware(clone_program(net.program, for_test=True), CPU, config, net.scope, for_test=True)
    program = quant_aware(net.program, CPU, config, net.scope)
    net.steps(steps, program)
    return net, program, test


FULL = pytest.mark.full


@pytest.mark.parametrize('bits', [pytest.param(8, marks=FULL), 4, pytest.param(2, marks=FULL)])
def test_convert(bits: int) -> None:
    net, program, test = trained({'weight_bits': bits})
    before = net.state()
    feed = nets.feed_of(9)
    integers = convert(test, CPU, scope=net.scope, feed=feed)
    (expected,) = slim.Executor().run(test, feed, [net.logits], scope=net.scope)
    (found,) = slim.Executor().run(integers, feed, [net.logits], scope=net.scope)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for name, array in net.state().items():
        np.testing.assert_array_equal(array, before[name])
    spec = spec_of(program, net.scope)
    assert repr(spec) == repr(spec_of(test, net.scope))
    for tensor in spec.of_kind('weight'):
        codes = load_array(net.scope, f'{tensor.name}@integers')
        assert codes.dtype == np.int8 and np.abs(codes).max() == 2 ** (bits - 1) - 1


def test_paddle_saves_what_convert_returns(tmp_path: Path) -> None:
    net, _, test = trained()
    integers = convert(test, CPU, scope=net.scope, feed=nets.FEED)
    (expected,) = slim.Executor().run(test, nets.FEED, [net.logits], scope=net.scope)
    image, logits = (slim.core.lookup(integers, item) for item in ('x', net.logits))
    with paddle.static.scope_guard(net.scope):
        executor = paddle.static.Executor(CPU)
        paddle.static.save_inference_model(str(tmp_path / 'm'), [image], [logits], executor, program=integers)
    with paddle.static.scope_guard(paddle.static.Scope()):
        program, feeds, fetches = paddle.static.load_inference_model(str(tmp_path / 'm'), executor)
        (found,) = executor.run(program, {feeds[0]: nets.FEED['x']}, fetches)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    weights = sum(np.prod(var.shape()) for var in GraphWrapper(net.program).all_parameters() if len(var.shape()) > 1)
    assert (tmp_path / 'm.pdiparams').stat().st_size < 2 * weights + 3000


def test_float_program() -> None:
    net, program, test = trained()
    plain = clone_program(net.program, for_test=True)
    for item in (program, test):
        assert repr(GraphWrapper(float_program(item)).ops()) == repr(GraphWrapper(plain).ops())


WAYS = [
    (kind, format, fold)
    for kind in ('abs_max', 'channel_wise_abs_max')
    for format in ('quantize_linear', 'fake_quantize', 'decomposed')
    for fold in (False, True)
]
QUICK = (('abs_max', 'decomposed', True), ('channel_wise_abs_max', 'fake_quantize', False))


@pytest.mark.parametrize(
    ('kind', 'format', 'fold'), [pytest.param(*way, marks=() if way in QUICK else FULL) for way in WAYS]
)
def test_export(kind: str, format: str, fold: bool, tmp_path: Path) -> None:
    net, _, test = trained({'weight_quantize_type': kind, 'weight_bits': 4})
    gamma = next(name for name in net.state() if name.startswith('batch_norm') and name.endswith('w_0'))
    values = net.state()[gamma]
    values[1], values[2] = -0.5, 0.0
    store_array(net.scope, gamma, values)
    feed = {'x': nets.feed_of(9)['x']}
    saved = export_aware(test, tmp_path / 'm', ['x'], [net.logits], net.scope, format=format, fold=fold, feed=feed)
    loaded = slim.runtime.load_inference_model(saved.prefix, paddle.static.Scope())
    (expected,) = slim.Executor().run(test, nets.feed_of(9), [net.logits], scope=net.scope)
    (found,) = slim.Executor().run(loaded.program, feed, loaded.fetches, scope=loaded.scope)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    kinds = [op.type() for op in GraphWrapper(loaded.program).ops()]
    assert ('batch_norm' in kinds) is not fold
    assert max(saved.distinct.values()) <= 15


def test_what_does_not_fit_is_an_error_and_the_scope_stays() -> None:
    net, train, test = trained()
    with pytest.raises(ConfigError, match='weight_bits.*4.*8'):
        convert(test, CPU, {'weight_bits': 4}, net.scope, feed=nets.FEED)
    with pytest.raises(GraphError, match='not quantized'):
        convert(net.program, CPU, scope=net.scope)
    with pytest.raises(DataError, match='feed'):
        convert(test, CPU, scope=net.scope, feed={**nets.FEED, 'x': nets.FEED['x'][..., 1]})
    spec = spec_of(test, net.scope)
    wrong = {name: replace(tensor, scale=tensor.scale * 1.01) for name, tensor in spec.tensors.items()}
    with pytest.raises(EquivalenceError, match='otherwise'):
        check_trained(test, replace(spec, tensors=wrong), net.scope, nets.FEED)
    name = next(name for name in spec.tensors if name.endswith('w_0'))
    weight = load_array(net.scope, name)
    store_array(net.scope, name, np.where(weight == weight.max(), np.float32('nan'), weight))
    with pytest.raises(DataError, match=name):
        convert(test, CPU, scope=net.scope)
    assert not has_array(net.scope, f'{name}@integers')


def test_a_pair_of_programs() -> None:
    net, _, test = trained()
    program, small = convert(test, CPU, {'onnx_format': False}, net.scope, True, feed=nets.FEED)
    both = [slim.Executor().run(item, nets.FEED, [net.logits], scope=net.scope)[0] for item in (program, small)]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-3, atol=1e-3)
