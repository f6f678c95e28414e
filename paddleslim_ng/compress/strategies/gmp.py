"""Gradual magnitude pruning as a strategy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.strategies.unstructured_prune import UnstructuredPruneStrategy
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.sparse import GMPUnstructuredPruner, UnstructuredPruner
from paddleslim_ng.sparse.options import LayerRatios
from paddleslim_ng.sparse.schedule import CubicSteps

__all__ = ['GMPStrategy']

_LOG = logging.getLogger('paddleslim_ng')
_PERIOD = 10
_STEPS = 100
_RISING = 0.45


class _Phase(NamedTuple):
    """How long a phase lasts, in batches or in epochs."""

    name: str
    iterations: int | None
    epochs: float | None

    @property
    def open(self) -> bool:
        """Whether neither is given."""
        return self.iterations is None and self.epochs is None

    def batches(self, length: int | None, otherwise: int) -> int:
        """Return the number of batches, by the length of an epoch."""
        if self.epochs is not None:
            return round(self.epochs * (length or 0))
        return otherwise if self.iterations is None else self.iterations

    def check(self) -> None:
        """Refuse a phase that is given twice, or in no number of epochs.

        Raises:
            ConfigError: it is.
        """
        if self.epochs is not None and self.iterations is not None:
            raise ConfigError(f'give {self.name}_iterations or {self.name}_epochs, not both')
        if self.epochs is not None and not self.epochs > 0:
            raise ConfigError(f'{self.name}_epochs is a number of epochs above 0, not {self.epochs!r}')


class GMPStrategy(UnstructuredPruneStrategy):
    """Lets the share of zeros rise in cubic steps while the network trains (Zhu and Gupta, 2017).

    The plan counts batches from ``start_epoch`` on; phases may be given in epochs instead. What is not given is made of
    the batches that the strategy has, from ``start_epoch`` to ``end_epoch`` or the end of the job.

    Args:
        start_epoch: the epoch before which masks come into the program.
        end_epoch: from then on no more weights leave; the zeros stay.
        ratio: share of the prunable weights that is reached.
        prune_params_type: ``'conv1x1_only'``, or None.
        pruned_params: regular expression that the whole name of a parameter to prune matches.
        excluded_params: the same for parameters to leave alone.
        local_sparsity: every parameter reaches the ratio by itself.
        sparse_block: rows and columns of blocks that stay or leave whole.
        layer_ratios: ``'uniform'``, ``'heuristic'``, or ``{parameter: ratio}``.
        regrowth: let weights that have left come back when the ratio rises.
        stable_iterations: batches before the first weight leaves.
        pruning_iterations: batches over which the ratio rises; 45 % of all where None.
        tuning_iterations: batches at the full ratio, up to which the plan counts; what is left where None.
        pruning_steps: number of steps; where None 100, or as many as the batches allow.
        initial_ratio: ratio of the first step.
        stable_epochs: instead of ``stable_iterations``: the same in epochs, which need not be whole.
        pruning_epochs: instead of ``pruning_iterations``.
        tuning_epochs: instead of ``tuning_iterations``.

    Attributes:
        schedule: the :class:`~paddleslim_ng.sparse.CubicSteps` at work, or None before the job.

    Raises:
        ConfigError: an argument is unusable.

    Example:
        >>> compressor.add_strategy(GMPStrategy(0, 15, ratio=0.75, layer_ratios='heuristic'))
    """

    def __init__(
        self,
        start_epoch: int = 0,
        end_epoch: int = 0,
        ratio: float = 0.55,
        prune_params_type: str | None = None,
        pruned_params: str = '.*',
        excluded_params: str | None = None,
        local_sparsity: bool = False,
        sparse_block: Sequence[int] = (1, 1),
        layer_ratios: LayerRatios = None,
        regrowth: bool = False,
        stable_iterations: int = 0,
        pruning_iterations: int | None = None,
        tuning_iterations: int | None = None,
        pruning_steps: int | None = None,
        initial_ratio: float = 0.15,
        stable_epochs: float | None = None,
        pruning_epochs: float | None = None,
        tuning_epochs: float | None = None,
    ) -> None:
        super().__init__(
            start_epoch,
            end_epoch,
            ratio,
            prune_params_type,
            pruned_params,
            excluded_params,
            local_sparsity,
            sparse_block,
            layer_ratios,
            regrowth,
        )
        if not 0 <= initial_ratio <= ratio:
            raise ConfigError(f'initial_ratio lies between 0 and ratio={ratio!r}, not {initial_ratio!r}')
        self._phases = {
            'stable': _Phase('stable', stable_iterations or None, stable_epochs),
            'pruning': _Phase('pruning', pruning_iterations, pruning_epochs),
            'tuning': _Phase('tuning', tuning_iterations, tuning_epochs),
        }
        for phase in self._phases.values():
            phase.check()
        self._steps, self._initial = pruning_steps, initial_ratio
        self.schedule: CubicSteps | None = None
        if pruning_iterations is not None and not any(phase.epochs for phase in self._phases.values()):
            self._schedule_of(None, 0)

    def on_compression_begin(self, context: Context) -> None:
        """Fix the plan, so that one that cannot work ends the job before it trains."""
        super().on_compression_begin(context)
        if context.epoch:
            self._require_schedule(context)

    def make_pruner(self, context: Context) -> UnstructuredPruner:
        """Put masks into the present training program."""
        schedule = self._require_schedule(context)
        return GMPUnstructuredPruner(
            context.train_program,
            self.ratio,
            context.scope,
            context.place,
            skip_params_func=self.skipped,
            configs=_configs(schedule),
            **{name: value for name, value in self._options.items() if name != 'pattern'},
        )

    def _require_schedule(self, context: Context) -> CubicSteps:
        if self.schedule is None:
            length = context.train_reader.length() if context.train_reader is not None else None
            epochs = max((self.end_epoch or context.epoch) - self.start_epoch, 0)
            self.schedule = self._schedule_of(length, epochs)
            rising = self.schedule.stable_iterations + self.schedule.pruning_iterations
            batches = length * epochs if length is not None else None
            if batches is not None and rising > batches:
                _LOG.warning(
                    '%s: the ratio rises over %d batches, and the strategy has %d: it will not reach %g',
                    self.name, rising, batches, self.ratio,
                )  # fmt: skip
        return self.schedule

    def _schedule_of(self, length: int | None, epochs: int) -> CubicSteps:
        """Return the plan for epochs of a length, which is None where the reader does not tell it."""
        if length is None and (self._phases['pruning'].open or any(phase.epochs for phase in self._phases.values())):
            raise ConfigError(
                f'{self.name}: the length of an epoch is not known, by which epochs would become batches; give '
                'pruning_iterations and no phase in epochs, or a reader that has a length'
            )
        batches = (length or 0) * epochs
        stable = self._phases['stable'].batches(length, 0)
        rising = self._phases['pruning'].batches(length, int(_RISING * batches))
        steps = self._steps
        if steps is None:
            steps = min(_STEPS, (rising - 1) // _PERIOD)
            if steps < 1:
                raise ConfigError(
                    f'{self.name}: the ratio would rise over {rising} batches, and one step takes more than {_PERIOD}; '
                    'give more epochs, or take UnstructuredPruneStrategy, which prunes at once'
                )
        tuning = self._phases['tuning'].batches(length, max(0, batches - stable - rising))
        return CubicSteps(stable, rising, tuning, steps, self._initial)

    def state_dict(self) -> Mapping[str, Any]:
        """Return the pruner's state, and the plan."""
        return {**super().state_dict(), 'plan': _configs(self.schedule) if self.schedule is not None else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep the plan, and a pruner's state until its program is there."""
        super().load_state_dict(state)
        self.schedule = CubicSteps.from_configs(state['plan']) if state['plan'] is not None else None


def _configs(schedule: CubicSteps) -> dict[str, Any]:
    return {name: getattr(schedule, name) for name in type(schedule).__dataclass_fields__}
