"""First-order Taylor importance: how much the loss would change without a channel."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import Executor, GraphWrapper, VarWrapper, clone_program, load_array, shape_of, store_array
from paddleslim_ng.core.paddle_compat import new_scope
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.prune.channel_requests import Request
from paddleslim_ng.prune.criterion import rows_of

if TYPE_CHECKING:
    from paddleslim_ng.prune.session import PruningSession

__all__ = ['Taylor']

Array = npt.NDArray[Any]
Scores = npt.NDArray[np.float64]
Feed = Mapping[str, Array]
Feeds = Union[Iterable[Feed], Callable[[], Iterable[Feed]]]


class Taylor:
    """Score channels by gradient times weight on given batches (Molchanov et al., 2017 and 2019).

    For every batch, the gradient of the loss is taken with dropout and batch norm in test mode, and the importance of
    a channel is the sum of ``(gradient * weight) ** 2`` over its weights; the score is the mean over batches. The scope
    is read, never written.

    Args:
        program: a program of either IR that computes the loss: for training, or for evaluation. Its parameters have the
            names and shapes of those of the program that is pruned.
        loss: name, Variable or Value of the loss in it.
        feeds: batches, each ``{data name: array}``; a sequence, or a function that returns a fresh iterable.
        scope: holds the parameters; the scope that is pruned where None.
        place: device; the CPU where None.
        power: 2 for the squares of the 2019 paper, 1 for the magnitudes of the one of 2017.
        jointly: sum gradient times weight over the channel first, which estimates the change of the loss when all its
            weights leave at once. Not for weights followed by a batch norm in training mode, where that sum is zero.

    Raises:
        ConfigError: ``power`` is neither 1 nor 2, or there are no feeds.
        GraphError: the program has no such loss.

    Example:
        >>> criterion = slim.prune.Taylor(train_program, loss, batches)
        >>> pruned, _, _ = slim.prune.Pruner(criterion).prune(program, scope, ['conv1_weights'], [0.5])
    """

    def __init__(
        self,
        program: Any,
        loss: Any,
        feeds: Feeds,
        scope: Any = None,
        place: Any = None,
        *,
        power: int = 2,
        jointly: bool = False,
    ) -> None:
        if power not in (1, 2):
            raise ConfigError(f'power must be 1 or 2, got {power!r}')
        self.program = program
        self.loss = GraphWrapper(program).var(loss).name()
        self.feeds = feeds if callable(feeds) else list(feeds)
        if not callable(self.feeds) and not self.feeds:
            raise ConfigError('feeds is empty; give at least one batch')
        self.scope = scope
        self.place = place
        self.power = power
        self.jointly = jointly
        self._done: weakref.WeakKeyDictionary[PruningSession, dict[str, Scores]] = weakref.WeakKeyDictionary()

    def score(self, session: PruningSession, requests: Sequence[Request]) -> dict[str, Scores]:
        """Return one score per position along the channel axis of each requested parameter.

        Raises:
            GraphError: the program lacks a parameter, it does not fit the scope, or the loss does not depend on it.
            DataError: a gradient is NaN or infinite.
            ConfigError: ``feeds`` returned no batch.
        """
        known = self._done.setdefault(session, {})
        if any(request.name not in known for request in requests):
            # One pass serves all that may yet be asked, as sensitivity analysis does, parameter by parameter.
            axes = {var.name(): axis for var, axis in session.analysis.out_axes.items()}
            required = {request.name: request.axis for request in requests}
            known.update(self._measure(session, {**axes, **required}, required))
        return {request.name: known[request.name] for request in requests}

    def _measure(
        self, session: PruningSession, axes: Mapping[str, int], required: Mapping[str, int]
    ) -> dict[str, Scores]:
        scope = self.scope if self.scope is not None else session.scope
        program, gradients = self._differentiate(list(axes), required)
        weights = {name: load_array(scope, name) for name in gradients}
        private = _private_copy(program, scope)
        executor = Executor(self.place)
        totals = {name: np.zeros(weights[name].shape[axes[name]]) for name in gradients}
        count = 0
        for feed in self._batches():
            results = executor.run(program, dict(feed), [*gradients.values()], private)
            for (name, weight), gradient in zip(weights.items(), results):
                totals[name] += self._contribution(weight, np.asarray(gradient), axes[name], name, count)
            count += 1
        if not count:
            raise ConfigError('feeds returned no batch; give at least one')
        return {name: total / count for name, total in totals.items()}

    def _batches(self) -> Iterator[Feed]:
        return iter(self.feeds() if callable(self.feeds) else self.feeds)

    def _differentiate(self, names: Sequence[str], required: Mapping[str, int]) -> tuple[Any, dict[str, Any]]:
        """Return a copy of the program with a backward pass, and the gradient of each parameter that has one."""
        program = clone_program(self.program, for_test=True)
        graph = GraphWrapper(program)
        absent = [name for name in required if not graph.has_var(name)]
        if absent:
            raise GraphError(f'the program given to Taylor lacks the parameters {absent}')
        variables = [graph.var(name) for name in names if graph.has_var(name)]
        for var in variables:
            var.raw.stop_gradient = False
        with paddle.static.program_guard(program):
            found = paddle.static.gradients([graph.var(self.loss).raw], [var.raw for var in variables])
        gradients = {var.name(): grad for var, grad in zip(variables, found) if grad is not None}
        idle = [name for name in required if name not in gradients]
        if idle:
            raise GraphError(f'the loss {self.loss!r} does not depend on {idle}; score them by another criterion')
        return program, gradients

    def _contribution(self, weight: Array, gradient: Array, axis: int, name: str, batch: int) -> Scores:
        products = rows_of(weight, axis).astype(np.float64) * rows_of(gradient, axis)
        if not np.isfinite(products).all():
            raise DataError(f'gradient times weight of {name!r} is NaN or infinite on batch {batch}')
        if self.jointly:
            products = products.sum(axis=1, keepdims=True)
        return np.asarray((np.abs(products) ** self.power).sum(axis=1), dtype=np.float64)

    def __repr__(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for feed in self._batches():
            for name in sorted(feed):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(feed[name]).tobytes())
        settings = f'loss={self.loss!r}, power={self.power}, jointly={self.jointly}'
        return f'Taylor({settings}, feeds={digest.hexdigest()})'


def _private_copy(program: Any, scope: Any) -> Any:
    """Return a scope with copies of the program's persistables, so that running it changes nothing outside.

    Raises:
        GraphError: a parameter is missing in the scope or has another shape there.
    """
    copy = new_scope()
    needed = [var for var in GraphWrapper(program).vars() if var.persistable() and _is_read(var)]
    for var in needed:
        name = var.name()
        if var.is_parameter() and shape_of(scope, name) != var.shape():
            raise GraphError(
                f'{name!r} has shape {list(shape_of(scope, name))} in the scope and {list(var.shape())} in the program '
                'given to Taylor; give it the program that fits the scope'
            )
        store_array(copy, name, load_array(scope, name))
    return copy


def _is_read(var: VarWrapper) -> bool:
    return any(op.type() not in ('feed', 'fetch') for op in var.outputs())
