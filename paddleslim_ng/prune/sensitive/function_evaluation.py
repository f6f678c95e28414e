"""Evaluation by a function of the user, in the user's own process and scope."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from paddleslim_ng.analysis.metric_value import as_metric
from paddleslim_ng.core import has_array
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune.records import record_name
from paddleslim_ng.prune.sensitive.masking import Footprint, restoring, zeroed
from paddleslim_ng.runtime.executor_flags import ignores_changed_weights

__all__ = ['Evaluation', 'FunctionEvaluation', 'PruneInPlace']

# Cuts one parameter by a ratio, in a scope, and returns the pruned program.
PruneInPlace = Callable[[Any], Any]


class Evaluation(Protocol):
    """Measures a network as it is, with channels zeroed, and with channels cut out.

    Attributes:
        source: what produces the metric, for messages.
    """

    source: str

    def baseline(self) -> float:
        """Measure the unpruned network."""
        ...

    def masked(self, parameter: str, footprint: Footprint) -> float:
        """Measure it with the positions of ``footprint`` zeroed; ``parameter`` is the one whose ratio is varied."""
        ...

    def cut(self, footprint: Footprint, prune: PruneInPlace) -> float:
        """Measure the program that ``prune(scope)`` returns after it has cut the parameters of ``footprint`` there."""
        ...

    def close(self) -> None:
        """Release processes and temporary files."""
        ...


class FunctionEvaluation:
    """Calls ``function(program, *arguments)`` while the parameters in the scope are zeroed or cut.

    Args:
        program: the evaluation program.
        scope: the scope that ``function`` uses.
        place: device of the parameters.
        function: returns the metric, the larger the better.
        arguments: handed on after the program.

    Raises:
        ConfigError: Paddle's oneDNN flag is set on a legacy program, whose executor then ignores changed weights.
    """

    source = 'eval_func'

    def __init__(
        self, program: Any, scope: Any, place: Any, function: Callable[..., Any], arguments: Sequence[Any] = ()
    ) -> None:
        if ignores_changed_weights(program):
            raise ConfigError(
                "FLAGS_use_mkldnn is set: with it, Paddle's executor keeps the first weights it has seen of a legacy "
                'program, so that pruning would seem to change nothing. Unset it, or pass evaluator= for eval_func'
            )
        self._program = program
        self._scope = scope
        self._place = place
        self._function = function
        self._arguments = tuple(arguments)

    def baseline(self) -> float:
        """Measure the unpruned network."""
        return self._measure(self._program)

    def masked(self, parameter: str, footprint: Footprint) -> float:
        """Measure the network with the footprint zeroed in the scope."""
        with zeroed(self._scope, footprint, self._place):
            return self._measure(self._program)

    def cut(self, footprint: Footprint, prune: PruneInPlace) -> float:
        """Measure the pruned program; the scope is whole again afterwards."""
        records = {record_name(name, axis) for name, cuts in footprint.items() for axis, _ in cuts}
        kept = [name for name in records if has_array(self._scope, name)]
        try:
            with restoring(self._scope, [*footprint, *kept], self._place):
                return self._measure(prune(self._scope))
        finally:
            self._scope.erase([name for name in records.difference(kept) if self._scope.find_var(name) is not None])

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _measure(self, program: Any) -> float:
        return as_metric(self._function(program, *self._arguments), self.source)
