"""Pruned training programs: two steps equal those of the original whose removed channels are held at zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
import pytest

from paddleslim_ng.core import Executor, GraphWrapper, store_array
from paddleslim_ng.prune import Pruner
from paddleslim_ng.prune.equivalence import persistable_values, zeroed
from paddleslim_ng.prune.records import recorded_positions
from tests.prune import probes_layers, probes_pointwise, probes_shapes
from tests.prune.probe_net import EXACT, Probe, build, configuration, feed, fill
from tests.prune.probe_refusals import UNBUILDABLE, WRONG_GRADIENT

PROBES = [*probes_pointwise.PROBES, *probes_layers.PROBES, *probes_shapes.PROBES]
TOLERANCE = 2e-5

Values = Mapping[str, npt.NDArray[Any]]
Footprint = dict[str, list[tuple[int, npt.NDArray[Any]]]]


def _skip_refused(probe: Probe) -> None:
    for table in (UNBUILDABLE, WRONG_GRADIENT):
        reason = table[configuration()].get(probe.name)
        if reason is not None:
            pytest.skip(f'Paddle itself: {reason}')


def _removed(program: Any, scope: Any) -> Footprint:
    """Read from a cut scope which positions of the program's parameters are gone."""
    footprint: Footprint = {}
    for var in {var.name(): var for var in GraphWrapper(program).all_parameters()}.values():
        for axis, size in enumerate(var.shape()):
            kept = recorded_positions(scope, var, axis)
            if kept is not None and len(kept) < size:
                footprint.setdefault(var.name(), []).append((axis, np.setdiff1d(np.arange(size), kept)))
    return footprint


def _with_velocities(footprint: Footprint, names: Values) -> Footprint:
    velocities = {f'{name}_velocity_0': axes for name, axes in footprint.items()}
    return {**footprint, **{name: axes for name, axes in velocities.items() if name in names}}


def _store(scope: Any, values: Values) -> None:
    for name, array in values.items():
        store_array(scope, name, array)


def _feeds(program: Any, step: int) -> dict[str, npt.NDArray[Any]]:
    feeds: dict[str, npt.NDArray[Any]] = dict(feed(step))
    for var in GraphWrapper(program).vars():
        if var.is_data and not var.persistable() and var.outputs() and var.name() not in feeds:
            feeds[var.name()] = np.ones([4 if n < 0 else n for n in var.shape()], dtype=var.dtype())
    return feeds


def _unused(program: Any) -> set[str]:
    """Flat copies that recurrent layers make of their weights share memory with these and are read by nobody."""
    return {var.name() for var in GraphWrapper(program).vars() if var.persistable() and not var.outputs()}


def _case(probe: Probe) -> Any:
    """Gradients of unary functions are Paddle's own affair; one of each kind will do in the short suite."""
    long = probe.name.startswith('unary_') and probe.name not in ('unary_relu', 'unary_sigmoid', 'unary_sqrt')
    return pytest.param(probe, id=probe.name, marks=pytest.mark.full if long else ())


@pytest.mark.parametrize('probe', [_case(p) for p in PROBES if p.expect == EXACT and p.trains is True])
def test_two_steps(probe: Probe) -> None:
    _skip_refused(probe)
    program, startup, loss = build(probe, train=True)
    small, big = paddle.static.Scope(), paddle.static.Scope()
    fill(program, startup, small)
    before = persistable_values(GraphWrapper(program), small)
    pruner = Pruner()
    pruned, _, _ = pruner.prune(program, small, list(probe.params), [probe.ratio] * len(probe.params))
    assert pruner.report.pruned[0].removed > 0
    footprint = _with_velocities(_removed(program, small), before)
    _store(big, zeroed(before, footprint))
    executor = Executor()
    for step in range(2):
        feeds = _feeds(program, step)
        (want,) = executor.run(program, feed=feeds, fetch_list=[loss], scope=big)
        (got,) = executor.run(pruned, feed=feeds, fetch_list=[loss], scope=small)
        np.testing.assert_allclose(got, want, rtol=TOLERANCE)
        _store(big, zeroed(persistable_values(GraphWrapper(program), big), footprint))
    wanted = persistable_values(GraphWrapper(program), big)
    for name in _unused(program):
        wanted.pop(name, None)
    _compare(wanted, persistable_values(GraphWrapper(pruned), small), before, footprint)


def _compare(wanted: Values, values: Values, before: Values, footprint: Footprint) -> None:
    """Compare what is left, relative to the largest of each array; what is zero but for rounding stays small."""
    moved = 0
    for name, want in wanted.items():
        if not np.issubdtype(want.dtype, np.floating) or not want.size:
            continue
        moved += not np.array_equal(want, before[name])
        for axis, positions in footprint.get(name, ()):
            want = np.delete(want, positions, axis=axis)
        assert values[name].shape == want.shape, name
        scale = max(float(np.abs(want).max()), 1e-2)
        assert float(np.abs(want - values[name]).max()) <= TOLERANCE * scale, name
    assert moved > 2, 'nothing was trained'
