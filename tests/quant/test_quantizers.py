"""Integers and what they stand for, against Paddle's own kernels and exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.quant import (
    TensorQuantization,
    abs_max_scale,
    dequantize,
    fake_quantize,
    quantize,
    scale_of_threshold,
)
from tests.quant.quantized_nets import paddle_kernel


def exact(value: float, scale: float, limit: int) -> int:
    """Round a quotient to the nearest integer, halves away from zero, in rational numbers."""
    steps = Fraction(value) / Fraction(scale)
    whole = int(abs(steps) + Fraction(1, 2))
    return max(-limit, min(limit, whole if steps >= 0 else -whole))


@pytest.mark.parametrize('bits', [2, 3, 4, 8, 16])
def test_against_rational_numbers(bits: int) -> None:
    """A scale that is a power of two divides exactly, so halves are met exactly."""
    scale = 0.25
    tensor = TensorQuantization('x', bits, np.array([scale]))
    grid = np.arange(-4 * 2 ** min(bits, 8), 4 * 2 ** min(bits, 8)) * scale / 4
    near = np.nextafter(grid.astype('float32'), np.float32(0))
    values = np.concatenate([grid, near]).astype('float32')
    found = quantize(values, tensor)
    assert found.dtype == (np.int8 if bits <= 8 else np.int16)
    assert found.tolist() == [exact(float(value), scale, tensor.limit) for value in values]
    np.testing.assert_array_equal(dequantize(found, tensor), found.astype('float32') * np.float32(scale))


@pytest.mark.parametrize('bits', [2, 4, 8])
@pytest.mark.parametrize('axis', [None, 0, 1])
def test_against_quantize_linear(bits: int, axis: int | None) -> None:
    random = np.random.default_rng(bits)
    values = random.uniform(-1, 1, (6, 8, 200)).astype('float32')
    scale = abs_max_scale(values, bits, axis) * np.float32(0.7)  # something is cut off
    tensor = TensorQuantization('x', bits, scale, axis, kind='weight')
    arrays = {'X': values, 'Scale': tensor.threshold, 'ZeroPoint': np.zeros(scale.size, 'int32')}
    attrs = {'quant_axis': -1 if axis is None else axis, 'bit_length': bits, 'round_type': 1, 'is_test': True}
    attrs.update(qmin=-tensor.limit, qmax=tensor.limit)
    codes = quantize(values, tensor)
    np.testing.assert_array_equal(paddle_kernel('quantize_linear', arrays, attrs), codes)
    assert np.unique(codes).size == 2 * tensor.limit + 1
    back = paddle_kernel('dequantize_linear', {**arrays, 'X': codes.astype('float32')}, attrs)
    np.testing.assert_allclose(dequantize(codes, tensor), back, rtol=3e-7)


def test_halves_go_away_from_zero_as_paddle_s_kernel_sends_them() -> None:
    tensor = TensorQuantization('x', 4, np.array([1.0]))
    values = (np.arange(-9, 9) + 0.5).astype('float32')
    arrays = {'X': values, 'Scale': tensor.threshold, 'ZeroPoint': np.zeros(1, 'int32')}
    attrs = {'quant_axis': -1, 'bit_length': 4, 'round_type': 1, 'is_test': True, 'qmin': -7, 'qmax': 7}
    found = paddle_kernel('quantize_linear', arrays, attrs)
    np.testing.assert_array_equal(found, quantize(values, tensor))
    assert found[7:11].tolist() == [-2, -1, 1, 2]


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20),
    st.integers(2, 16),
    st.floats(2.0**-60, 2.0**60, width=32),
)
def test_what_integers_stand_for_is_kept(values: list[float], bits: int, scale: float) -> None:
    tensor = TensorQuantization('x', bits, np.array([scale]))
    once = fake_quantize(np.array(values, 'float32'), tensor)
    np.testing.assert_array_equal(fake_quantize(once, tensor), once)
    np.testing.assert_array_equal(fake_quantize(-once, tensor), -once)
    inside = np.abs(values) <= tensor.threshold[0]
    assert np.all(np.abs(once - np.array(values, 'float32'))[inside] <= scale * (0.5 + 2.0 ** (bits - 24)))


def test_zero_points() -> None:
    tensor = TensorQuantization('x', 8, np.array([0.5]), zero_point=-127)
    values = np.array([-3.0, 0.0, 0.5, 100.0, 1000.0], 'float32')
    assert quantize(values, tensor).tolist() == [-127, -127, -126, 73, 127]
    assert fake_quantize(values, tensor).tolist() == [0, 0, 0.5, 100, 127]


def test_zeros_have_a_scale_and_stay_exact() -> None:
    weights = np.zeros([3, 4], 'float32')
    weights[1] = 2.54
    scale = abs_max_scale(weights, 8, 0)
    np.testing.assert_allclose(scale, [1 / 127, 0.02, 1 / 127], rtol=1e-6)
    tensor = TensorQuantization('w', 8, scale, 0, kind='weight')
    np.testing.assert_allclose(fake_quantize(weights, tensor), weights, rtol=1e-6)
    tiny, huge = np.float32(1e-42), np.finfo('float32').max
    for magnitude in (tiny, huge):
        found = TensorQuantization('x', 2, scale_of_threshold(magnitude, 2))
        assert np.isfinite(fake_quantize(np.array([magnitude, -magnitude]), found)).all()


@pytest.mark.parametrize('bad', [np.nan, np.inf, -1.0])
def test_numbers_of_no_use(bad: float) -> None:
    with pytest.raises(DataError, match='finite and not negative'):
        scale_of_threshold([1.0, bad], 8)
    if bad != -1.0:
        with pytest.raises(DataError, match='NaN or infinity'):
            abs_max_scale(np.array([1.0, bad]), 8)
        with pytest.raises(DataError, match="'x' has NaN"):
            quantize(np.array([1.0, bad]), TensorQuantization('x', 8, np.array([1.0])))


def test_channels_that_do_not_fit() -> None:
    tensor = TensorQuantization('w', 8, np.array([1.0, 2.0]), 1, kind='weight')
    with pytest.raises(ConfigError, match='2 scales along axis 1'):
        quantize(np.ones([2, 3]), tensor)
    with pytest.raises(ConfigError, match='no axis 2'):
        abs_max_scale(np.ones([2, 3]), 8, 2)
    with pytest.raises(DataError, match='empty'):
        abs_max_scale(np.ones([0, 3]), 8)
