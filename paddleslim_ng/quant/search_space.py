"""The options of post-training quantization to choose from, and the sampler that proposes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Union

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.building import WEIGHT_TYPES
from paddleslim_ng.quant.observers import OBSERVERS
from paddleslim_ng.quant.static_arguments import check_named
from paddleslim_ng.quant.trial_log import Trial

__all__ = ['Sampler', 'SearchSpace']

Range = Union[float, Sequence[float]]


@dataclass(frozen=True)
class SearchSpace:
    """What can be chosen: alternatives, or the smallest and the largest value.

    Attributes:
        algo: observers.
        weight_quantize_type: how scales of weights are chosen.
        bias_correct: whether biases are corrected.
        hist_percent: for the observer ``'hist'`` alone.
        batch_size: samples in a batch.
        batch_num: batches.
    """

    algo: tuple[str, ...]
    weight_quantize_type: tuple[str, ...]
    bias_correct: tuple[bool, ...]
    hist_percent: tuple[float, float]
    batch_size: tuple[float, float]
    batch_num: tuple[float, float]

    @classmethod
    def of(
        cls,
        algo: str | Sequence[str],
        weight_quantize_type: str | Sequence[str],
        bias_correct: bool | Sequence[bool],
        hist_percent: Range,
        batch_size: Range,
        batch_num: Range,
    ) -> SearchSpace:
        """Return the space that a user gave in lists or single values.

        Raises:
            ConfigError: something that does not exist, or an empty choice; the message names it.
        """
        return cls(
            _choices('algo', algo, tuple(OBSERVERS)),
            _choices('weight_quantize_type', weight_quantize_type, tuple(WEIGHT_TYPES)),
            _choices('bias_correct', bias_correct, (True, False)),
            _range('hist_percent', hist_percent, lambda value: 0 < value <= 1, 'above 0 and at most 1'),
            _range('batch_size', batch_size, _is_count, 'positive and whole'),
            _range('batch_num', batch_num, _is_count, 'positive and whole'),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON can hold it."""
        return {name: list(values) for name, values in asdict(self).items()}

    def sampler(self, seed: int, done: Iterable[Trial]) -> Sampler:
        """Return a sampler that stands where it stood after some trials.

        Raises:
            ConfigError: optuna is not installed.
        """
        return Sampler(self, seed, done)


class Sampler:
    """Proposes options by tree-structured Parzen estimators (Bergstra et al., 2011), with optuna.

    Args:
        space: what can be chosen.
        seed: of the estimators; the same trials lead to the same proposals.
        done: trials of an earlier process. Their options are proposed again, silently.

    Raises:
        ConfigError: optuna is not installed.
    """

    def __init__(self, space: SearchSpace, seed: int, done: Iterable[Trial] = ()) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ConfigError('this search needs optuna: pip install optuna') from error
        self._space = space
        self._failed = optuna.trial.TrialState.FAIL
        loud = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=8))
        finally:
            optuna.logging.set_verbosity(loud)
        for trial in done:
            self.tell(self.ask()[0], trial.loss)

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """Return a handle and the options to try."""
        trial, space = self._study.ask(), self._space
        options: dict[str, Any] = {
            'algo': trial.suggest_categorical('algo', space.algo),
            'weight_quantize_type': trial.suggest_categorical('weight_quantize_type', space.weight_quantize_type),
            'bias_correct': trial.suggest_categorical('bias_correct', space.bias_correct),
            'batch_size': trial.suggest_int('batch_size', int(space.batch_size[0]), int(space.batch_size[1])),
            'batch_num': trial.suggest_int('batch_num', int(space.batch_num[0]), int(space.batch_num[1])),
        }
        if options['algo'] == 'hist':
            options['hist_percent'] = trial.suggest_float('hist_percent', *space.hist_percent)
        return trial, options

    def tell(self, trial: Any, loss: float) -> None:
        """Take note of what options are worth, the smaller the better; infinity says that they failed."""
        if math.isfinite(loss):
            self._study.tell(trial, loss)
        else:
            self._study.tell(trial, state=self._failed)


def _choices(name: str, given: Any, known: tuple[Any, ...]) -> tuple[Any, ...]:
    values = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    if not values:
        raise ConfigError(f'{name} leaves nothing to choose from; known: {list(known)}')
    for value in values:
        check_named(name, value, known)
    return tuple(dict.fromkeys(values))


def _range(name: str, given: Any, fits: Callable[[float], bool], wanted: str) -> tuple[float, float]:
    values = tuple(given) if isinstance(given, (list, tuple)) else (given, given)
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if len(values) != 2 or not numbers or not all(map(fits, values)) or values[0] > values[1]:
        raise ConfigError(f'{name} must be a number, or the smallest and the largest one, {wanted}; not {given!r}')
    return values[0], values[1]


def _is_count(value: float) -> bool:
    return value == int(value) and value >= 1
