"""Search for bits: PocketFlow's constraint and state, samplers, exact resumption."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from paddleslim_ng.errors import CheckpointError, ConfigError, DataError
from paddleslim_ng.quant.bit_environment import BitEnvironment, BitLayer, bit_layers, clipped_bits, duty
from paddleslim_ng.quant.bit_search import BitSampler, OptunaBitSampler, RandomBitSampler, search_bits
from tests.quant.quantized_nets import conv_net, spec_of

LAYERS = [
    BitLayer('a', (3, 3, 3, 8), 216),
    BitLayer('b', (1, 1, 8, 16), 128),
    BitLayer('c', (3, 3, 1, 16), 144),
    BitLayer('d', (1, 1, 16, 10), 160),
]
SAMPLERS = {'random': RandomBitSampler, 'optuna': OptunaBitSampler}


def environment(average: float = 3.0) -> BitEnvironment:
    return BitEnvironment(LAYERS, average)


def worth(bits: dict[str, int]) -> float:
    """Return a reward with a known optimum: layer ``a`` matters most, ``d`` not at all."""
    return -sum(weight * 4.0 ** -bits[name] for name, weight in zip('abcd', (100.0, 10.0, 1.0, 0.0)))


@pytest.mark.parametrize('seed', range(5))
def test_no_walk_exceeds_the_budget(seed: int) -> None:
    random = np.random.default_rng(seed)
    for average in (2.0, 2.7, 3.0, 5.5, 9.0):
        walk = environment(average)
        walk.reset(random)
        while not walk.done:
            walk.step(float(random.uniform(-3, 12)))
        assert walk.average(walk.bits) <= average
        assert all(2 <= bits <= 8 for bits in walk.bits.values())
        if average == 2.0:
            assert set(walk.bits.values()) == {2}


def test_actions_are_clipped_by_hand_computed_duties() -> None:
    walk = environment()
    walk.reset()
    total = 216 + 128 + 144 + 160
    assert duty(3 * total, 0, total, 2) == total
    walk.step(6.0)  # 648 free bits over 216 elements: 3 more than the lowest
    assert walk.bits == {'a': 5}
    for _ in range(3):
        walk.step(6.0)
    assert walk.bits == {'a': 5, 'b': 2, 'c': 2, 'd': 2}
    assert clipped_bits(1.4, 1000, 10, 2, 8) == 3
    assert clipped_bits(1.5, 1000, 10, 2, 8) == 4
    assert clipped_bits(0.0, 45, 10, 2, 8, last=True) == 6  # the last layer takes what is left
    assert clipped_bits(0.0, 1000, 10, 2, 8, last=True) == 8
    assert clipped_bits(5.0, -1, 10, 2, 8) == 2


def test_states_are_those_of_pocketflow() -> None:
    walk = environment()
    state = walk.reset()
    assert walk.state_size == len(state) == 4 + 6
    np.testing.assert_array_equal(state[:4], [1, 0, 0, 0])
    np.testing.assert_allclose(state[4:], [1, 1, 3 / 16, 8 / 16, 1, 432 / 648], rtol=1e-6)
    after = walk.step(0.0)
    np.testing.assert_array_equal(after[:4], [0, 1, 0, 0])
    np.testing.assert_allclose(after[4:], [1 / 3, 1 / 3, 8 / 16, 1, 128 / 216, 304 / 648], rtol=1e-6)
    for _ in range(3):
        last = walk.step(0.0)
    assert walk.done
    assert not last.any()
    with pytest.raises(ConfigError, match='has its bits'):
        walk.step(0.0)


def test_layers_are_read_from_a_specification() -> None:
    net = conv_net()
    found = bit_layers(spec_of(net), net.scope)
    assert [layer.shape for layer in found] == [
        (3, 3, 3, 8),
        (3, 3, 1, 8),
        (1, 1, 8, 16),
        (1, 1, 16, 16),
        (1, 1, 16, 10),
    ]
    assert [layer.elements for layer in found] == [math.prod(layer.shape) for layer in found]


@pytest.mark.parametrize('name', SAMPLERS)
def test_searches_keep_the_budget_and_return_their_best(name: str) -> None:
    walk = environment()
    found = search_bits(SAMPLERS[name](walk, seed=3), worth, trials=25)
    assert len(found.trials) == 25
    assert found.reward == max(trial.reward for trial in found.trials) == worth(dict(found.bits))
    assert all(walk.average(trial.bits) <= 3.0 for trial in found.trials)
    again = search_bits(SAMPLERS[name](environment(), seed=3), worth, trials=25)
    assert again.trials == found.trials


def test_parzen_estimators_learn() -> None:
    learned = search_bits(OptunaBitSampler(environment(), seed=0), worth, trials=60)
    late = np.mean([trial.reward for trial in learned.trials[40:]])
    drawn = search_bits(RandomBitSampler(environment(), seed=0), worth, trials=60)
    assert late > np.mean([trial.reward for trial in drawn.trials])
    assert learned.bits['a'] >= 4


@pytest.mark.parametrize('name', SAMPLERS)
def test_a_stopped_search_ends_as_if_never_stopped(name: str, tmp_path: Path) -> None:
    start = [{'a': 4, 'b': 3, 'c': 2, 'd': 2}]
    whole = search_bits(SAMPLERS[name](environment(), seed=1), worth, 20, start=start)
    assert whole.trials[0].bits == start[0]
    file = tmp_path / 'trials.json'
    calls = []

    def failing(bits: dict[str, int]) -> float:
        calls.append(bits)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return worth(bits)

    with pytest.raises(KeyboardInterrupt):
        search_bits(SAMPLERS[name](environment(), seed=1), failing, 20, start=start, file=file)
    resumed = search_bits(SAMPLERS[name](environment(), seed=1), failing, 20, start=start, file=file)
    assert resumed.trials == whole.trials
    assert len(calls) == 13 + 8
    with pytest.raises(CheckpointError, match='other bits'):
        search_bits(SAMPLERS[name](environment(), seed=2), worth, 20, start=start[:0], file=file)
    with pytest.raises(CheckpointError, match='network'):
        search_bits(SAMPLERS[name](environment(), seed=1), worth, 20, file=file, identity={'network': 'other'})


def test_time_runs_out() -> None:
    found = search_bits(RandomBitSampler(environment()), worth, 1000, seconds=0.0)
    assert len(found.trials) == 1


def test_unusable_searches_are_refused() -> None:
    with pytest.raises(ConfigError, match='cannot be kept'):
        environment(1.9)
    with pytest.raises(ConfigError, match='no layer'):
        BitEnvironment([], 3)
    with pytest.raises(ConfigError, match='lowest must not'):
        BitEnvironment(LAYERS, 8, lowest=6, highest=4)
    sampler: BitSampler = RandomBitSampler(environment())
    with pytest.raises(ConfigError, match='trials'):
        search_bits(sampler, worth, 0)
    with pytest.raises(DataError, match='nan'):
        search_bits(sampler, lambda bits: float('nan'), 1)
