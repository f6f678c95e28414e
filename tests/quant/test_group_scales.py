"""Scales for groups of inputs: numpy's quantization of every block by itself, and both IRs from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import paddleslim_ng as slim
from paddleslim_ng.core import load_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.graph_wrapper import GraphWrapper
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.new_parameters import add_parameter
from paddleslim_ng.core.parameters import store_array
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant import QuantizationSpec, TensorQuantization, abs_max_scale, dequantize, packing, quantize
from paddleslim_ng.quant.packing import build_unpacked, pack, unpack
from tests.quant.quantized_nets import Net, build, conv_body, spec_of

Array = npt.NDArray[Any]


def by_blocks(array: Array, axis: int, inputs: int, size: int, bits: int) -> Array:
    """Quantize and dequantize block by block."""
    limit, out = 2 ** (bits - 1) - 1, np.zeros_like(array)
    for channel in range(array.shape[axis]):
        for start in range(0, array.shape[inputs], size):
            place: list[Any] = [slice(None)] * array.ndim
            place[axis], place[inputs] = channel, slice(start, start + size)
            block = array[tuple(place)]
            step = np.float32(np.abs(block).max() / limit if np.abs(block).max() else 1.0 / limit)
            steps = block * (np.float32(1) / step)
            out[tuple(place)] = np.clip(np.trunc(steps + np.copysign(0.49999997, steps)), -limit, limit) * step
    return out


@pytest.fixture(name='net')
def a_net() -> Net:
    return build(conv_body)


CASES = [((12, 5), 1, 0), ((5, 12), 0, 1), ((4, 6, 3, 3), 0, 1), ((6, 4, 3, 3), 1, 0), ((2, 6, 5), 2, 1)]


@pytest.mark.parametrize(('shape', 'axis', 'inputs'), CASES)
@pytest.mark.parametrize('size', [1, 4, 5, 100])
def test_every_block_is_quantized_by_itself(shape: tuple[int, ...], axis: int, inputs: int, size: int) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype('float32')
    array[(0,) * array.ndim] = 9.0
    scale = abs_max_scale(array, 4, axis, group_axis=inputs, group_size=size)
    assert scale.shape == (shape[axis], -(-shape[inputs] // size))
    tensor = TensorQuantization('w', 4, scale, axis, kind='weight', group_axis=inputs, group_size=size)
    codes = quantize(array, tensor)
    assert np.unique(codes).size <= 15
    np.testing.assert_allclose(dequantize(codes, tensor), by_blocks(array, axis, inputs, size, 4), rtol=1e-6)


def test_a_group_of_zeros_stays_exactly_zero() -> None:
    array = np.ones((4, 2), 'float32')
    array[:2, 0] = 0
    scale = abs_max_scale(array, 4, 1, group_axis=0, group_size=2)
    tensor = TensorQuantization('w', 4, scale, 1, kind='weight', group_axis=0, group_size=2)
    np.testing.assert_array_equal(dequantize(quantize(array, tensor), tensor), array)


@given(st.integers(1, 40), st.integers(0, 2**31))
def test_packing_loses_nothing(size: int, seed: int) -> None:
    integers = np.random.default_rng(seed).integers(-8, 8, size).astype('int8')
    packed = pack(integers)
    assert packed.dtype == np.int8 and packed.size == (size + 1) // 2
    np.testing.assert_array_equal(unpack(packed, (size,)), integers)


@pytest.mark.parametrize('shape', [(256,), (3, 5), (15, 16, 1)])
def test_operators_unpack_every_byte_exactly(shape: tuple[int, ...]) -> None:
    high, low = np.divmod(np.arange(int(np.prod(shape))), 16)
    integers = (np.where(np.arange(high.size) % 2, high % 16, low) - 8).astype('int8').reshape(shape)
    packed = pack(integers)
    program, scope = paddle.static.Program(), paddle.static.Scope()
    graph = GraphWrapper(program)
    stored = add_parameter(graph, 'codes', packed.shape, 'int8')
    store_array(scope, 'codes', packed)
    result = build_unpacked(Expressions(Insertion(graph)), stored, shape)
    (found,) = slim.Executor().run(program, {}, [result.raw], scope=scope)
    assert np.asarray(found).dtype == np.float32
    np.testing.assert_array_equal(found, integers)


def test_json_with_groups_and_without() -> None:
    scale = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], 'float32')
    grouped = TensorQuantization('w', 4, scale, 1, kind='weight', group_axis=0, group_size=8)
    plain = TensorQuantization('v', 8, scale[:, 0], 1, kind='weight')
    spec = QuantizationSpec({'w': grouped, 'v': plain}, {'y': ('w', 'v')})
    assert QuantizationSpec.from_json(spec.to_json()) == spec
    assert QuantizationSpec.from_json(spec.to_json()).tensors['w'].scale.tobytes() == scale.tobytes()
    assert 'group_size' not in json.loads(spec.to_json())['tensors'][1], 'readable for what knows no groups'


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'group_size': 0}, 'positive whole number'),
        ({'group_size': None}, 'positive whole number'),
        ({'group_axis': 1}, 'channels along one axis and inputs along another'),
        ({'group_axis': None}, 'no axis along which|channels along one axis'),
        ({'axis': None}, 'no axis along which'),
        ({'scale': np.ones(3)}, 'channels, groups'),
        ({'kind': 'activation'}, 'for a weight'),
    ],
)
def test_groups_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    good = {'scale': np.ones((3, 2)), 'axis': 1, 'kind': 'weight', 'group_axis': 0, 'group_size': 8}
    TensorQuantization('w', 4, **good)
    with pytest.raises(ConfigError, match=message):
        TensorQuantization('w', 4, **{**good, **fields})


@pytest.mark.parametrize('size', [0, -1, 2.5, True])
def test_sizes_that_make_no_sense(net: Net, size: Any) -> None:
    with pytest.raises(ConfigError, match='group_size'):
        spec_of(net, group_size=size)


def test_one_scale_has_no_groups(net: Net) -> None:
    with pytest.raises(ConfigError, match='by channel'):
        spec_of(net, group_size=4, weight_quantize_type='abs_max')


def test_a_shape_that_does_not_fit(net: Net) -> None:
    spec = spec_of(net, group_size=4)
    name = next(name for name, tensor in spec.tensors.items() if tensor.scale.ndim == 2 and tensor.scale.shape[1] > 1)
    other = TensorQuantization(
        name, 8, spec.tensors[name].scale[:, :1], spec.tensors[name].axis, kind='weight', group_axis=1, group_size=4
    )
    with pytest.raises(GraphError, match='groups of its inputs'):
        slim.quant.simulate(net.program, QuantizationSpec({**spec.tensors, name: other}, spec.operators), net.scope)
    with pytest.raises(ConfigError, match='in groups of 4'):
        quantize(load_array(net.scope, name)[:, :2], spec.tensors[name])


@pytest.mark.parametrize('format', ['quantize_linear', 'fake_quantize'])
def test_formats_without_groups_say_so(net: Net, format: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"scale for every 4 inputs, and the {format} format .*\['decomposed', 'pac"):
        slim.quant.export_quantized(
            net.program, spec_of(net, group_size=4), tmp_path / 'm', *net.model[1:], format=format
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('bits', 'size'), [(4, 4), (4, 5), (8, 5), (3, 100), (16, 4)])
def test_every_layer_from_file(net: Net, bits: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, 'SMALLEST', 100)
    spec = spec_of(net, weight_bits=bits, group_size=size)
    written = slim.quant.export_quantized(
        net.program, spec, tmp_path / 'model', *net.model[1:], format='packed', feed=net.feed
    )
    assert written.agreement.operators < 1e-5
    assert max(written.distinct.values()) <= 2**bits - 1
    simulated = slim.quant.simulate(net.program, spec, net.scope)
    for name, tensor in spec.tensors.items():
        if tensor.kind == 'weight' and tensor.group_axis is not None and tensor.axis is not None:
            blocks = by_blocks(load_array(net.scope, name), tensor.axis, tensor.group_axis, size, bits)
            np.testing.assert_allclose(load_array(simulated.scope, name), blocks, rtol=1e-5)


def test_reconstruction_knows_groups(net: Net) -> None:
    spec = spec_of(net, weight_bits=4, group_size=4)
    found = slim.quant.reconstruct(
        slim.runtime.InferenceModel(*net.model), spec, [net.feed], learning=slim.quant.Learning(iterations=5)
    )
    for name, tensor in spec.tensors.items():
        if tensor.kind == 'weight':
            array = load_array(found.model.scope, name)
            np.testing.assert_allclose(array, dequantize(quantize(array, tensor), tensor), rtol=1e-6)
