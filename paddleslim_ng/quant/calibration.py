"""Calibration: one pass over the data, with statistics that operators in the program compute.

Behind the producer of each observed tensor stand operators that find its largest magnitudes, divide it by the smallest
power of two that holds them, and count a histogram (:mod:`paddleslim_ng.quant.statistics`). A few kilobytes are fetched
for each tensor and batch. Operators run in program order, so that the tensor itself dies where it did before: memory
grows neither with the data nor with the layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import Executor, GraphWrapper, VarWrapper, clone_program, cut_program
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.paddle_compat import new_scope, operators_in_order
from paddleslim_ng.core.parameters import has_array, share_tensor
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.statistics import BINS, SMALLEST_RANGE, CalibrationStatistics, TensorStatistics

__all__ = ['calibrate']

_FLOATS: Final = frozenset({'float16', 'bfloat16', 'float32', 'float64'})
_LARGEST_RANGE: Final = 2.0**100
# Above the error of a logarithm in float32, so that the power of two is never too small.
_MARGIN: Final = 1.0 + 2.0**-14
_FERRIES: Final = frozenset({'feed', 'fetch'})


def calibrate(
    program: Any,
    feeds: Iterable[Feed],
    tensors: Iterable[Any],
    scope: Any = None,
    *,
    executor: Any = None,
) -> CalibrationStatistics:
    """Run a program over calibration data and return what the observers need to know of some of its tensors.

    The program is copied in test mode and cut to what the tensors need; program and scope are left as they are.

    Args:
        program: a program of either IR, or a GraphWrapper.
        feeds: batches, as :func:`paddleslim_ng.quant.read_feeds` makes them of what users have; arrays for inputs that
            the tensors do not depend on are left out.
        tensors: names, Variables or Values of floating-point tensors that are no parameters.
        scope: holds the parameters; Paddle's global scope where None.
        executor: its place is used; the CPU where None.

    Returns:
        The statistics of every tensor. ``rows`` are the positions along axis 0 of each.

    Raises:
        GraphError: a tensor does not exist or depends on no input, an input that it needs is not fed, or a parameter
            is not in the scope.
        ConfigError: no tensor is given, or one does not hold floating-point numbers, or is a parameter.
        DataError: no batch; a batch that the program cannot run on; NaN, infinity or magnitudes beyond 2**100 in a
            tensor. Batch (counted from 1) and tensor are named.

    Example:
        >>> feeds = read_feeds(data_inputs(program), images, batch_size=8)
        >>> seen = calibrate(program, feeds, ['conv2d_0.tmp_0'])
        >>> threshold(seen['conv2d_0.tmp_0'], 'KL')
    """
    source = program.program if isinstance(program, GraphWrapper) else program
    scope = scope if scope is not None else paddle.static.global_scope()
    place = getattr(executor, 'place', None) or paddle.CPUPlace()
    observed = _Observed.of(source, tensors)
    runner, own = Executor(place), _sharing_scope(observed.program, scope)
    seen: dict[str, TensorStatistics] = {}
    batches = images = 0
    for batch, feed in enumerate(feeds, start=1):
        _check_fed(observed, feed, batch)
        outputs = _run(runner, observed, feed, own, batch)
        for name, statistics in _read(observed.names, outputs, batch):
            seen[name] = seen[name].merge(statistics) if name in seen else statistics
        batches = batch
        images += _images(feed, observed.inputs)
    if not batches:
        raise DataError('there is no batch to calibrate with: the source of data is empty')
    return CalibrationStatistics(seen, batches, images)


class _Observed(NamedTuple):
    """A program that computes statistics.

    Attributes:
        program: the copy.
        names: the tensors.
        inputs: what it has to be fed.
        fetches: names of the results, as many for each tensor.
    """

    program: Any
    names: list[str]
    inputs: list[str]
    fetches: list[Any]

    @classmethod
    def of(cls, source: Any, tensors: Iterable[Any]) -> _Observed:
        with matching_ir(source):
            graph = GraphWrapper(clone_program(source, for_test=True))
            observed = {var.name(): var for var in map(graph.var, tensors)}
            _check_tensors(observed.values())
            results = [_observe(graph, var) for var in observed.values()]
            names = [var.name() for group in results for var in group]
            graph = GraphWrapper(graph.program)
            inputs = _needed_inputs(graph, observed)
            part = GraphWrapper(cut_program(graph.program, inputs, names))
            return cls(part.program, list(observed), inputs, [part.var(name).raw for name in names])


def _check_tensors(tensors: Iterable[VarWrapper]) -> None:
    found = list(tensors)
    if not found:
        raise ConfigError('there is nothing to observe: no tensor was given')
    for var in found:
        if var.persistable() or var.is_parameter():
            raise ConfigError(f'{var.name()!r} is a parameter; its values are in the scope and need no calibration')
        if var.dtype() not in _FLOATS:
            raise ConfigError(f'{var.name()!r} holds {var.dtype()}, and only floating-point tensors are quantized')


def _observe(graph: GraphWrapper, var: VarWrapper) -> list[VarWrapper]:
    """Build the operators that compute the statistics of a tensor, behind its producer, and return their results."""
    e = Expressions(_place_behind(graph, var))
    x, axes = e.cast(var, 'float32'), list(range(len(var.shape())))
    if not axes:
        x, axes = e.reshape(x, [1]), [0]
    rows = e.abs(x)
    if len(axes) > 1:
        rows = e.max(rows, axes[1:])
    shrink = _inverse_range(e, e.max(rows, [0]))
    unit = e.scale_by(x, shrink)
    counts = e.here.op('histogram', {'X': unit}, {'bins': 2 * BINS, 'min': -1, 'max': 1})
    return [shrink, e.sum(unit, axes), rows, counts]


_RESULTS: Final = 4


def _inverse_range(e: Expressions, magnitude: VarWrapper) -> VarWrapper:
    """Return one over the smallest power of two that holds a magnitude, exactly: the exponent is a whole number."""
    exponent = e.here.op('ceil', {'X': e.here.op('log2', {'X': e.scale(magnitude, _MARGIN, SMALLEST_RANGE)})})
    half = e.scale(magnitude, 0.0, 0.5)
    return e.here.op('elementwise_pow', {'X': half, 'Y': exponent})


def _place_behind(graph: GraphWrapper, var: VarWrapper) -> Insertion:
    """Return the place right behind what makes a tensor, or before all that may read it."""
    makers = [op for op in var.inputs() if op.type() not in _FERRIES]
    if makers:
        return Insertion(graph, after=makers[-1])
    readers = [op for op in var.outputs() if op.type() not in _FERRIES]
    if not readers:
        raise GraphError(f'{var.name()!r} cannot be observed: no operator makes or reads it')
    return Insertion(graph, before=min(readers, key=lambda op: op.idx()))


def _needed_inputs(graph: GraphWrapper, observed: Mapping[str, VarWrapper]) -> list[str]:
    """Return the names of the inputs that the tensors are computed from, in program order."""
    pending, seen = [graph.var(name) for name in observed], set[str]()
    while pending:
        var = pending.pop()
        if var.name() not in seen:
            seen.add(var.name())
            pending.extend(source for op in var.inputs() if op.type() != 'feed' for source in op.all_inputs())
    inputs = [
        var.name()
        for var in graph.vars()
        if var.name() in seen and not (var.persistable() or var.is_parameter())
        if all(op.type() == 'feed' for op in var.inputs())
    ]
    if not inputs:
        raise GraphError(f'{sorted(observed)} depend on no input: there is nothing to feed')
    return inputs


def _sharing_scope(program: Any, scope: Any) -> Any:
    """Return a scope with the parameters of another one, in the same memory; what runs leave behind dies with it."""
    own = new_scope()
    for var in GraphWrapper(program).vars():
        kept = var.persistable() and has_array(scope, var.name())
        if var.outputs() and (var.is_parameter() or kept):
            share_tensor(scope, var.name(), var.name(), target=own)
    return own


def _check_fed(observed: _Observed, feed: Feed, batch: int) -> None:
    missing = [name for name in observed.inputs if name not in feed]
    if missing:
        raise GraphError(f'batch {batch} feeds {sorted(feed)}, but the observed tensors need {missing}, too')


def _run(runner: Executor, observed: _Observed, feed: Feed, scope: Any, batch: int) -> list[Any]:
    given = {name: feed[name] for name in observed.inputs}
    try:
        with operators_in_order():
            return runner.run(observed.program, feed=given, fetch_list=observed.fetches, scope=scope)
    except (ValueError, RuntimeError, TypeError, OSError, IndexError) as error:
        shapes = {name: list(np.shape(array)) for name, array in given.items()}
        raise DataError(f'the program cannot run on batch {batch}, of shapes {shapes}: {error}') from error


def _read(names: Sequence[str], outputs: Sequence[Any], batch: int) -> Iterable[tuple[str, TensorStatistics]]:
    for index, name in enumerate(names):
        results = [np.asarray(item) for item in outputs[index * _RESULTS : (index + 1) * _RESULTS]]
        yield name, _statistics(name, results, batch)


def _statistics(name: str, results: Sequence[npt.NDArray[Any]], batch: int) -> TensorStatistics:
    shrink, total = (float(item.reshape(-1)[0]) for item in results[:2])
    rows, counts = results[2].reshape(-1).astype(np.float64), results[3].astype(np.int64)
    # Paddle's maxima may pass over NaN, and its histograms do; a sum does not.
    if not (np.isfinite([shrink, total]).all() and np.isfinite(rows).all() and rows.max() <= _LARGEST_RANGE):
        raise DataError(
            f'{name!r} is not finite on batch {batch}: it holds NaN, infinity or magnitudes beyond 2**100; look at the '
            'data of that batch and at the parameters'
        )
    return TensorStatistics(name, counts, 1.0 / shrink, float(rows.max()), len(rows), float(rows.sum()))


def _images(feed: Feed, inputs: Sequence[str]) -> int:
    shape = np.shape(feed[inputs[0]])
    return int(shape[0]) if shape else 1
