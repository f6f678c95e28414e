"""How much a channel matters: one score per position along a parameter's channel axis.

The criteria that look at nothing but the parameter are plain functions ``(values, axis) -> scores``; the others are
objects with a ``score`` method (:class:`ChannelCriterion`). :data:`CRITERION` has both kinds by name.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.errors import ConfigError, DataError, nearest_names
from paddleslim_ng.prune.channel_requests import Request
from paddleslim_ng.prune.channels import Analysis

if TYPE_CHECKING:
    from paddleslim_ng.prune.session import PruningSession

__all__ = [
    'CRITERION',
    'BatchNormScale',
    'ChannelCriterion',
    'Random',
    'Scorer',
    'geometry_median',
    'get_criterion',
    'l0_norm',
    'l1_norm',
    'l2_norm',
]

Array = npt.NDArray[Any]
_CACHED = 1 << 16
Scores = npt.NDArray[np.float64]
Scorer = Callable[[Array, int], Scores]


@runtime_checkable
class ChannelCriterion(Protocol):
    """A criterion that looks beyond the parameter: at the graph, at data, or at nothing."""

    def score(self, session: PruningSession, requests: Sequence[Request]) -> Mapping[str, Scores]:
        """Return one score per position along the channel axis of each requested parameter, by parameter name."""
        ...


def finite_values(session: PruningSession, name: str) -> Array:
    """Return a parameter's value from the scope, read-only; bfloat16, which numpy lacks, as float32.

    Raises:
        DataError: it holds NaN or infinity.
    """
    values = session.values(name)
    if values.dtype == np.uint16 and session.graph.var(name).dtype() == 'bfloat16':
        values = (values.astype(np.uint32) << 16).view(np.float32)
    flat = values.reshape(-1)
    # The dot product is a fast way to see that all is well; it may also overflow.
    if flat.dtype.kind == 'f' and not np.isfinite(np.dot(flat, flat)):
        bad = flat.size - int(np.count_nonzero(np.isfinite(flat)))
        if bad:
            raise DataError(
                f'{bad} of {flat.size} values of {name!r} are NaN or infinite, so channels cannot be ranked by it; '
                'load a sound checkpoint into the scope'
            )
    return values


def rows_of(values: Array, axis: int) -> Array:
    """See ``values`` as one contiguous row per position along ``axis``, at least in single precision."""
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    return rows if rows.dtype.itemsize >= 4 else rows.astype(np.float32)


def l0_norm(values: Array, axis: int) -> Scores:
    """Count the non-zero weights of each channel.

    Args:
        values: parameter of any rank.
        axis: channel axis.

    Returns:
        One score per position along ``axis``.
    """
    return np.asarray(np.count_nonzero(rows_of(values, axis), axis=1), dtype=np.float64)


def l1_norm(values: Array, axis: int) -> Scores:
    """Sum the magnitudes of each channel's weights (Li et al., 2017, Pruning Filters for Efficient ConvNets).

    Args:
        values: parameter of any rank.
        axis: channel axis.

    Returns:
        One score per position along ``axis``.
    """
    rows = rows_of(values, axis)
    result = np.empty(len(rows))
    # Piece by piece, so that the magnitudes stay in the processor's cache.
    step = max(1, _CACHED // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        result[start : start + step] = np.abs(rows[start : start + step]).sum(axis=1)
    return result


def l2_norm(values: Array, axis: int) -> Scores:
    """Take the Euclidean norm of each channel's weights.

    Args:
        values: parameter of any rank.
        axis: channel axis.

    Returns:
        One score per position along ``axis``.
    """
    return np.asarray(np.linalg.norm(rows_of(values, axis).astype(np.float64), axis=1), dtype=np.float64)


def geometry_median(values: Array, axis: int) -> Scores:
    """Sum each channel's Euclidean distances to all others (FPGM; He et al., 2019).

    A channel close to all others is replaceable and has a low score.

    Args:
        values: parameter of any rank.
        axis: channel axis.

    Returns:
        One score per position along ``axis``.
    """
    rows = rows_of(values, axis).astype(np.float64)
    squares = (rows * rows).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2.0 * rows @ rows.T, 0.0)
    np.fill_diagonal(distances, 0.0)
    return np.asarray(np.sqrt(distances).sum(axis=1), dtype=np.float64)


class BatchNormScale:
    """Take the magnitude of the scale in the batch norm that follows (Liu et al., 2017, Network Slimming).

    Among the batch norms that see the parameter's channels, the first in program order decides; it may see them behind
    element-wise operators, or as a part of what was concatenated.
    """

    def score(self, session: PruningSession, requests: Sequence[Request]) -> dict[str, Scores]:
        """Return one score per position along the channel axis of each requested parameter.

        Raises:
            ConfigError: no batch norm follows a parameter, or it has no scale.
            DataError: a scale holds NaN or infinity.
        """
        return {request.name: self._score_one(session, request) for request in requests}

    def _score_one(self, session: PruningSession, request: Request) -> Scores:
        analysis = session.analysis
        scale = _following_scale(analysis, request)
        if scale is None:
            raise ConfigError(
                f'bn_scale cannot score {request.name!r}: no batch norm with a scale follows its channels; '
                'leave it out or choose another criterion for it'
            )
        magnitudes = np.abs(finite_values(session, scale.name())).astype(np.float64)
        roots = analysis.space.find(analysis.parameters[scale][0].labels)
        if np.array_equal(roots, request.classes[request.inverse]):
            return magnitudes
        order = np.searchsorted(request.classes, roots)
        order[order == len(request.classes)] = 0
        mine = request.classes[order] == roots
        count = np.bincount(order[mine], minlength=len(request.classes))
        total = np.bincount(order[mine], weights=magnitudes[mine], minlength=len(request.classes))
        return np.asarray((total / count)[request.inverse], dtype=np.float64)


def _following_scale(analysis: Analysis, request: Request) -> VarWrapper | None:
    """Walk the channels of a parameter downstream to the first batch norm that scales all of them."""
    queue: list[tuple[int, OpWrapper]] = []
    seen: set[int] = set()

    def visit(var: VarWrapper) -> None:
        for op in var.outputs():
            if op.idx() not in seen and not op.is_bwd_op() and not op.is_opt_op():
                seen.add(op.idx())
                heapq.heappush(queue, (op.idx(), op))

    visit(request.var)
    while queue:
        _, op = heapq.heappop(queue)
        scales = op.inputs('Scale') if op.type() in ('batch_norm', 'sync_batch_norm') else []
        for scale in scales:
            mark = analysis.parameters.get(scale, {}).get(0)
            if mark is not None and np.isin(request.classes, analysis.space.find(mark.labels)).all():
                return scale
        for var in op.all_outputs():
            layout = analysis.layouts.get(var, {})
            if any(np.isin(analysis.space.find(mark.labels), request.classes).any() for mark in layout.values()):
                visit(var)
    return None


class Random:
    """Score channels at random: the baseline that every other criterion has to beat.

    The scores of a parameter depend on the seed and its name only.

    Args:
        seed: of the generator.
    """

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise ConfigError(f'seed must be 0 or more, got {seed}')
        self.seed = seed

    def score(self, session: PruningSession, requests: Sequence[Request]) -> dict[str, Scores]:
        """Return one score per position along the channel axis of each requested parameter."""
        return {r.name: self._generator(r.name).random(len(r.labels)) for r in requests}

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def __repr__(self) -> str:
        return f'Random(seed={self.seed})'


CRITERION: Mapping[str, Scorer | ChannelCriterion] = {
    'l0_norm': l0_norm,
    'l1_norm': l1_norm,
    'l2_norm': l2_norm,
    'geometry_median': geometry_median,
    'bn_scale': BatchNormScale(),
    'random': Random(0),
}
"""Criteria by name."""


def get_criterion(name: str) -> Scorer | ChannelCriterion:
    """Return the criterion called ``name``.

    Raises:
        ConfigError: there is none; the message lists those that exist.
    """
    if name == 'taylor':
        raise ConfigError("the criterion 'taylor' needs data; pass Taylor(program, loss, feeds) instead of its name")
    if name not in CRITERION:
        raise ConfigError(f'unknown criterion {name!r}{nearest_names(name, CRITERION)}; known: {sorted(CRITERION)}')
    return CRITERION[name]
