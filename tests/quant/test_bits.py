"""Bits under a budget: exact against brute force, true sizes, infeasible budgets."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import paddleslim_ng as slim
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.bits import FLOAT_BITS, BitAllocator, TensorSize, weight_sizes
from paddleslim_ng.quant.knapsack import Item, solve
from tests.quant.quantized_nets import conv_net, spec_of

WIDTHS = (2, 3, 4, 8)


def random_problem(seed: int, count: int = 5) -> BitAllocator:
    random = np.random.default_rng(seed)
    names = [f'w{place}' for place in range(count)]
    losses = {name: {bits: float(random.exponential(2.0**-bits)) for bits in WIDTHS} for name in names}
    return BitAllocator(losses, {name: TensorSize(int(random.integers(1, 500)), 3) for name in names})


def brute_force(allocator: BitAllocator, cost: Any, budget: float) -> float | None:
    """Return the least loss of all combinations within the budget."""
    names = list(allocator.losses)
    best = None
    for widths in itertools.product(*(allocator.losses[name] for name in names)):
        if math.fsum(cost(name, width) for name, width in zip(names, widths)) <= budget + 1e-9:
            loss = math.fsum(allocator.losses[name][width] for name, width in zip(names, widths))
            best = loss if best is None else min(best, loss)
    return best


@pytest.mark.parametrize('seed', range(12))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    allocator = random_problem(seed)
    random = np.random.default_rng(seed + 100)
    total = sum(size[0] for size in allocator.sizes.values())
    average = float(random.uniform(2.0, 6.0))
    found = allocator.within_average(average)
    expected = brute_force(allocator, lambda name, width: allocator.sizes[name][0] * width, average * total)
    assert found.loss == pytest.approx(expected, rel=1e-12)
    assert found.average_bits <= average
    assert found.cost == pytest.approx(found.average_bits)

    size = int(random.uniform(0.3, 1.0) * total) + 60
    by_bytes = allocator.within_bytes(size)
    expected = brute_force(allocator, lambda name, width: allocator.sizes[name].stored_bytes(width), size)
    assert by_bytes.loss == pytest.approx(expected, rel=1e-12)
    assert by_bytes.stored_bytes == by_bytes.cost <= size

    table = {name: {bits: float(random.uniform(0.1, 1.0)) for bits in WIDTHS} for name in allocator.losses}
    budget = float(random.uniform(1.5, 3.0))
    expected = brute_force(allocator, lambda name, width: table[name][width], budget)
    if expected is not None:
        by_time = allocator.within_latency(budget, table)
        assert by_time.loss == pytest.approx(expected, rel=1e-12)
        assert by_time.cost <= budget


def test_ties_and_losses_below_zero_are_solved_exactly() -> None:
    for seed in range(60):
        random = np.random.default_rng(seed)
        groups = {
            f'g{place}': [
                Item(key, float(random.integers(-3, 3)), float(random.integers(0, 9)))
                for key in range(random.integers(1, 5))
            ]
            for place in range(int(random.integers(1, 6)))
        }
        budget = float(random.integers(0, 30))
        sums = [
            math.fsum(item.loss for item in choice)
            for choice in itertools.product(*groups.values())
            if math.fsum(item.cost for item in choice) <= budget
        ]
        found = solve(groups, budget)
        if not sums:
            assert found is None
        else:
            assert found is not None
            assert math.fsum(item.loss for item in found.values()) == min(sums)
            assert math.fsum(item.cost for item in found.values()) <= budget


def test_large_problems_with_real_costs_are_quick_and_within_the_budget() -> None:
    random = np.random.default_rng(0)
    costs = {f'g{place}': random.uniform(1.0, 1000.0) for place in range(150)}
    groups = {
        name: [Item(bits, float(random.exponential(4.0**-bits)), bits * cost) for bits in (2, 3, 4, 5, 6, 8)]
        for name, cost in costs.items()
    }
    budget = 3.3 * sum(costs.values())
    found = solve(groups, budget)
    assert found is not None
    assert 0.999 * budget < math.fsum(item.cost for item in found.values()) <= budget


def test_an_impossible_budget_says_what_is_possible() -> None:
    allocator = random_problem(0)
    with pytest.raises(ConfigError, match='the smallest one takes 2;'):
        allocator.within_average(1.9)
    least = sum(size.stored_bytes(2) for size in allocator.sizes.values())
    with pytest.raises(ConfigError, match=f'the smallest one takes {least};'):
        allocator.within_bytes(least - 1)
    assert allocator.within_bytes(least).stored_bytes == least
    table = {name: {4: 1.5, 8: 1.0} for name in allocator.losses}
    with pytest.raises(ConfigError, match='the smallest one takes 5;'):
        allocator.within_latency(4.9, table)


def test_float_is_a_width_like_others() -> None:
    allocator = BitAllocator(
        {'a': {8: 0.5, FLOAT_BITS: 0.0}, 'b': {8: 0.1, FLOAT_BITS: 0.0}}, {'a': (10, 2), 'b': (10, 2)}
    )
    found = allocator.within_bytes(40 + 10 + 8)
    assert found.bits == {'a': FLOAT_BITS, 'b': 8}
    assert found.floats == ['a']
    assert found.quantized == {'b': 8}
    assert 'float: 1: a' in str(found)
    assert allocator.uniform(8).stored_bytes == 36


def test_latencies_choose_between_int8_and_float() -> None:
    losses = {'a': {8: 0.2, FLOAT_BITS: 0.0}, 'b': {8: 0.1, FLOAT_BITS: 0.0}}
    table = {'a': {8: 1.0, FLOAT_BITS: 2.0}, 'b': {8: 1.0, FLOAT_BITS: 5.0}}
    found = BitAllocator(losses).within_latency(3.0, table)
    assert found.bits == {'a': FLOAT_BITS, 'b': 8}
    assert 'milliseconds' in str(found)
    with pytest.raises(ConfigError, match="lacks 'b'"):
        BitAllocator(losses).within_latency(3.0, {'a': {8: 1.0}})
    with pytest.raises(ConfigError, match='losses at'):
        BitAllocator(losses).within_latency(3.0, {'a': {4: 1.0}, 'b': {8: 1.0}})


def test_sizes_are_those_of_packed_integers_and_their_scales() -> None:
    net = conv_net()
    spec = spec_of(net)
    sizes = weight_sizes(spec, net.scope)
    for name, size in sizes.items():
        array = slim.core.load_array(net.scope, name)
        assert size == (array.size, spec.tensors[name].scale.size)
        packed = np.packbits(np.zeros(array.size * 3, np.uint8))
        assert size.stored_bytes(3) == packed.nbytes + spec.tensors[name].scale.nbytes
        assert size.stored_bytes(FLOAT_BITS) == array.nbytes


def test_the_bits_are_those_of_the_specification() -> None:
    net = conv_net()
    sizes = weight_sizes(spec_of(net), net.scope)
    losses = {name: {bits: 2.0**-bits * place for bits in WIDTHS} for place, name in enumerate(sizes, start=1)}
    found = BitAllocator(losses, sizes).within_average(3.0)
    spec = spec_of(net, weight_bits=found.quantized)
    assert {tensor.name: tensor.bits for tensor in spec.of_kind('weight')} == dict(found.bits)
    assert len(set(found.bits.values())) > 1
    stored = slim.quant.storage_report(net.program, spec)
    rows = {row.name: row for row in stored.tensors if row.name in found.bits}
    assert sum(row.code_bits for row in rows.values()) == found.average_bits * sum(size[0] for size in sizes.values())
    assert found.stored_bytes == sum(-(-row.total_bits // 8) for row in rows.values())


def test_files_hold_as_many_integers_as_bits_allow(tmp_path: Path) -> None:
    net = conv_net()
    sizes = weight_sizes(spec_of(net), net.scope)
    losses = {name: {bits: 2.0**-bits * place for bits in WIDTHS} for place, name in enumerate(sizes, start=1)}
    found = BitAllocator(losses, sizes).within_average(3.0)
    spec = spec_of(net, weight_bits=found.quantized)
    exported = slim.quant.export_quantized(net.program, spec, tmp_path / 'mixed', ['x'], net.fetches, net.scope)
    for name, bits in found.bits.items():
        assert 2 < exported.distinct[name] + 1 <= 2**bits


@pytest.mark.parametrize(
    ('losses', 'sizes', 'message'),
    [
        ({}, {}, 'nothing to allocate'),
        ({'a': {}}, {}, 'no loss at any width'),
        ({'a': {1: 0.0}}, {}, 'cannot have 1 bits'),
        ({'a': {4: float('nan')}}, {}, 'is nan'),
        ({'abc': {4: 0.0}}, {'abd': (1, 1)}, "no entry for 'abc'.*abd"),
        ({'a': {4: 0.0}}, {'a': (0, 1)}, 'cannot have the size'),
    ],
)
def test_unusable_arguments_are_refused(losses: Any, sizes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BitAllocator(losses, sizes)


def test_budgets_that_cannot_be_reckoned_are_refused() -> None:
    allocator = BitAllocator({'a': {4: 0.1}})
    with pytest.raises(ConfigError, match='needs the sizes'):
        allocator.within_average(4)
    with pytest.raises(ConfigError, match='must be a number'):
        BitAllocator({'a': {4: 0.1}}, {'a': (1, 1)}).within_average(float('nan'))
    with pytest.raises(ConfigError, match='no loss at 3 bits'):
        allocator.uniform(3)
