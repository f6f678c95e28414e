"""Every way channels go through an operator: pruned equals masked, or the obstacle is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import Executor, GraphWrapper
from paddleslim_ng.errors import NotPrunableError
from paddleslim_ng.prune import Pruner
from paddleslim_ng.prune.channels import analyse
from tests.prune import probes_layers, probes_pointwise, probes_shapes
from tests.prune.probe_net import EXACT, Probe, build, configuration, feed, fill
from tests.prune.probe_refusals import UNBUILDABLE

PROBES = [*probes_pointwise.PROBES, *probes_layers.PROBES, *probes_shapes.PROBES]
BY_NAME = {probe.name: probe for probe in PROBES}
TOLERANCE = 1e-5


def _cases(*names: str) -> list[Any]:
    return [pytest.param(BY_NAME[name], id=name) for name in names]


@pytest.fixture(autouse=True)
def _names_from_zero() -> Iterator[None]:
    with paddle.utils.unique_name.guard():
        yield


def _built(probe: Probe) -> tuple[Any, Any]:
    """Build and fill a probe, or see that Paddle refuses it as the table says."""
    reason = UNBUILDABLE[configuration()].get(probe.name)
    if reason is not None:
        with pytest.raises(Exception, match=re.escape(reason)):
            build(probe)
        pytest.skip(f'Paddle refuses: {reason}')
    program, startup, _ = build(probe)
    scope = paddle.static.Scope()
    fill(program, startup, scope)
    return program, scope


def _prune(probe: Probe, program: Any, scope: Any, ratio: float | None = None) -> tuple[Any, Pruner]:
    pruner = Pruner()
    ratios = [probe.ratio if ratio is None else ratio] * len(probe.params)
    pruned, _, _ = pruner.prune(program, scope, list(probe.params), ratios, verify=TOLERANCE)
    return pruned, pruner


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(PROBES)
    for table in UNBUILDABLE.values():
        assert not set(table) - set(BY_NAME)


@pytest.mark.parametrize('probe', [pytest.param(p, id=p.name) for p in PROBES if p.expect == EXACT])
def test_exact(probe: Probe) -> None:
    program, scope = _built(probe)
    _check_lengths(program)
    _, pruner = _prune(probe, program, scope)
    figures, result = pruner.report.equivalence, pruner.report.pruned[0]
    assert figures is not None
    assert figures.max_relative <= TOLERANCE
    assert figures.effect > 1e-4, 'zeroing changed nothing: the comparison shows nothing'
    assert result.removed > 0
    if probe.kept is not None:
        assert result.channels - result.removed == probe.kept


def _check_lengths(program: Any) -> None:
    """Labels of an axis are as many as the axis is long."""
    analysis = analyse(GraphWrapper(program))
    for layouts in (analysis.layouts, analysis.parameters):
        for var, layout in layouts.items():
            for axis, mark in layout.items():
                assert var.shape()[axis] in (-1, len(mark.labels)), (var, axis)


@pytest.mark.parametrize('probe', [pytest.param(p, id=p.name) for p in PROBES if p.expect != EXACT])
def test_refused(probe: Probe) -> None:
    program, scope = _built(probe)
    _check_lengths(program)
    try:
        _, pruner = _prune(probe, program, scope)
    except NotPrunableError as error:
        assert probe.expect in str(error)
        assert '[conv2d -> ' in str(error), 'the way to the obstacle is not told'
    else:
        assert pruner.report.pruned[0].removed == 0
        assert probe.expect in str(pruner.report)


@pytest.mark.parametrize('ratio', [0.3, 0.75])
@pytest.mark.parametrize(
    'probe',
    _cases(
        *('conv', 'depthwise_multiplier', 'grouped', 'transposed_grouped', 'group_norm', 'squeeze_excite', 'dense'),
        *('split', 'strided_parts', 'gather', 'unfold', 'maxout', 'mean_channels', 'attention_fused', 'lstm'),
        *('shuffle_2', 'reshape_computed', 'roll_channels', 'flatten_linear', 'einsum_weight', 'nhwc'),
    ),
)
def test_other_ratios(probe: Probe, ratio: float) -> None:
    program, scope = _built(probe)
    _, pruner = _prune(probe, program, scope, ratio)
    figures, result = pruner.report.equivalence, pruner.report.pruned[0]
    assert figures is not None
    assert figures.max_relative <= TOLERANCE
    assert abs(result.removed / result.channels - ratio) <= 0.3


@pytest.mark.parametrize(
    'probe',
    _cases(
        *('conv', 'grouped', 'split', 'slice', 'slice_parts', 'strided', 'strided_parts', 'gather', 'index_list'),
        *(
            'roll_channels',
            'maxout',
            'unfold',
            'mean_channels',
            'reshape_computed',
            'lstm',
            'group_norm',
            'tile_channels',
        ),
    ),
)
def test_program_follows_scope(probe: Probe) -> None:
    program, scope = _built(probe)
    pruned, pruner = _prune(probe, program, scope)
    follower = Pruner()
    followed, _, _ = follower.prune(program, scope, list(probe.params), [0.1], only_graph=True)
    output = pruner.report.equivalence.outputs[-1] if pruner.report.equivalence else ''
    left, right = (Executor().run(p, feed=feed(), fetch_list=[output], scope=scope)[0] for p in (pruned, followed))
    np.testing.assert_array_equal(left, right)


def test_explanation_names_op_axis_and_path() -> None:
    program, _ = _built(BY_NAME['softmax_channels'])
    explanation = Pruner().explain(program, 'w1')
    assert explanation.free == 0
    (obstacle,) = explanation.obstacles
    assert obstacle.op == 'softmax'
    assert obstacle.axis == 1
    assert obstacle.path[0] == 'conv2d'
    assert obstacle.path[-1] == 'softmax'
