"""Search for bits by trial: samplers that are asked for a choice and told what it is worth."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from paddleslim_ng.analysis.metric_value import as_metric
from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.quant.bit_environment import BitEnvironment
from paddleslim_ng.quant.measurements_file import MeasurementsFile

__all__ = ['BitSampler', 'BitSearchResult', 'OptunaBitSampler', 'RandomBitSampler', 'Trial', 'search_bits']

_LOG = logging.getLogger(__name__)


class BitSampler(Protocol):
    """Proposes bits within a budget, and learns from what they are worth.

    A sampler draws from generators of its own with a given seed, so that the same answers lead to the same questions.
    """

    def ask(self) -> dict[str, int]:
        """Return bits by layer to try."""
        ...

    def tell(self, bits: Mapping[str, int], reward: float) -> None:
        """Take note of what bits are worth, the larger the better; also of bits that were not asked for."""
        ...


class Trial(NamedTuple):
    """One trial of a search.

    Attributes:
        bits: by layer.
        reward: what they are worth.
    """

    bits: Mapping[str, int]
    reward: float


@dataclass(frozen=True)
class BitSearchResult:
    """What a search found.

    Attributes:
        bits: the best ones, by layer.
        reward: what they are worth.
        trials: all of them, in order.
    """

    bits: Mapping[str, int]
    reward: float
    trials: tuple[Trial, ...]


def search_bits(
    sampler: BitSampler,
    reward: Callable[[dict[str, int]], Any],
    trials: int,
    *,
    start: Iterable[Mapping[str, int]] = (),
    seconds: float | None = None,
    file: str | os.PathLike[str] | None = None,
    identity: Mapping[str, str] | None = None,
) -> BitSearchResult:
    """Try bits and return the best ones.

    Args:
        sampler: proposes them.
        reward: of bits by layer, such as the accuracy on validation data after fine-tuning; the larger the better.
        trials: how many, those of ``start`` included.
        start: bits to try first, such as those of a knapsack.
        seconds: no trial begins after that time.
        file: JSON file that keeps the trials, replaced atomically after each. A search that finds its trials there asks
            the sampler and answers from the file, so that a new sampler with the same seed ends up as if never stopped.
        identity: what the file belongs to, such as ``{'network': ..., 'data': ...}``.

    Raises:
        ConfigError: less than one trial, or a reward that is no number.
        DataError: a reward that is not finite.
        CheckpointError: the file belongs to something else, is damaged or cannot be written.

    Example:
        >>> environment = BitEnvironment(bit_layers(spec, scope), average_bits=3)
        >>> found = search_bits(OptunaBitSampler(environment, seed=0), reward, trials=60)
    """
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ConfigError(f'trials must be a positive whole number, not {trials!r}')
    state = MeasurementsFile.resume(file, identity or {})
    first = [dict(bits) for bits in start]
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    done: list[Trial] = []
    for index in range(trials):
        known = state.values.get(f'trial {index}')
        if known is None and done and time.monotonic() > deadline:
            break
        bits = first[index] if index < len(first) else sampler.ask()
        if known is None:
            value = as_metric(reward(dict(bits)), 'reward')
            state.values[f'trial {index}'] = {**{name: float(width) for name, width in bits.items()}, _REWARD: value}
            state.save()
        else:
            value = _recorded(known, bits, index, state)
        sampler.tell(bits, value)
        done.append(Trial(dict(bits), value))
        _LOG.debug('trial %d: %.6g', index, value)
    best = max(done, key=lambda trial: trial.reward)
    return BitSearchResult(best.bits, best.reward, tuple(done))


_REWARD = ' reward'  # no name of a layer begins with a space


def _recorded(known: Mapping[str, float], bits: Mapping[str, int], index: int, state: MeasurementsFile) -> float:
    if {name: int(value) for name, value in known.items() if name != _REWARD} != dict(bits):
        raise CheckpointError(
            f'trial {index} in {state.path} tried other bits than this sampler asks for: sampler, seed, budget or '
            'start have changed; name another file'
        )
    return known[_REWARD]


class RandomBitSampler:
    """Draws every action alike, layers in a random order, within the budget.

    Args:
        environment: layers and budget.
        seed: of what is drawn.
    """

    def __init__(self, environment: BitEnvironment, *, seed: int = 0) -> None:
        self._environment = environment
        self._random = np.random.default_rng(seed)

    def ask(self) -> dict[str, int]:
        """Return bits by layer to try."""
        environment = self._environment
        environment.reset(self._random)
        while not environment.done:
            environment.step(float(self._random.uniform(-0.5, environment.highest_action + 0.5)))
        return {layer.name: environment.bits[layer.name] for layer in environment.layers}

    def tell(self, bits: Mapping[str, int], reward: float) -> None:
        """Learn nothing."""


class OptunaBitSampler:
    """Lets a sampler of optuna choose the actions, that of tree-structured Parzen estimators if none is given.

    Args:
        environment: layers and budget: it cuts the widths off that the budget does not allow.
        seed: of the default sampler.
        sampler: any sampler of optuna.
        warm_up: trials at random before the default sampler models anything.

    Raises:
        ConfigError: optuna is not installed.
    """

    def __init__(self, environment: BitEnvironment, *, seed: int = 0, sampler: Any = None, warm_up: int = 10) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ConfigError('this sampler needs optuna: pip install optuna') from error
        chosen = sampler or optuna.samplers.TPESampler(seed=seed, n_startup_trials=warm_up, multivariate=False)
        self._environment = environment
        self._study = optuna.create_study(direction='maximize', sampler=chosen)
        self._space: dict[str, Any] = {
            layer.name: optuna.distributions.IntDistribution(environment.lowest, environment.highest)
            for layer in environment.layers
        }
        self._make = optuna.trial.create_trial
        self._pending: tuple[Any, dict[str, int]] | None = None

    def ask(self) -> dict[str, int]:
        """Return bits by layer to try."""
        trial = self._study.ask(self._space)
        lowest = self._environment.lowest
        bits = self._environment.allocate({name: float(width - lowest) for name, width in trial.params.items()})
        self._pending = (trial, bits)
        return dict(bits)

    def tell(self, bits: Mapping[str, int], reward: float) -> None:
        """Take note of what bits are worth, the larger the better; also of bits that were not asked for."""
        if self._pending is not None and self._pending[1] == dict(bits):
            self._study.tell(self._pending[0], reward)
            self._pending = None
            return
        within = {name: min(max(int(bits[name]), space.low), space.high) for name, space in self._space.items()}
        self._study.add_trial(self._make(params=within, distributions=self._space, value=reward))
