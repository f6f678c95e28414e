"""How far the outputs of a quantized model are from those in float: one row of a table for each measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, DataError, nearest_names

__all__ = ['OUTPUT_LOSSES', 'joined_batches', 'output_loss']

Array = npt.NDArray[Any]
_TINY: Final = 1e-12


def joined_batches(rows: Sequence[Sequence[Array]]) -> list[Array]:
    """Return the outputs of all batches joined, one array for each output.

    Args:
        rows: for each batch, its outputs.
    """
    return [np.concatenate([np.atleast_1d(row[place]) for row in rows]) for place in range(len(rows[0]))]


def output_loss(name: str, exact: Sequence[Array], found: Sequence[Array]) -> float:
    """Return how far outputs are from the exact ones, added up over the outputs.

    Args:
        name: one of :data:`OUTPUT_LOSSES`.
        exact: the outputs in float.
        found: the same of the quantized model.

    Raises:
        ConfigError: an unknown name, or outputs that it cannot judge.
        DataError: an output that is not finite.
    """
    if name not in OUTPUT_LOSSES:
        known = ', '.join(OUTPUT_LOSSES)
        raise ConfigError(f'unknown measure {name!r} of outputs; known: {known}{nearest_names(name, OUTPUT_LOSSES)}')
    for array in (*exact, *found):
        if not np.isfinite(array).all():
            raise DataError('an output is not finite: it holds NaN or infinity')
    measure = OUTPUT_LOSSES[name]
    return float(sum(measure(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(exact, found)))


def _divergence(exact: Array, found: Array) -> float:
    """Take the mean Kullback-Leibler divergence of the classes along the last axis, in nats.

    Outputs that are no probabilities are logits, whose softmax is taken.
    """
    if not exact.ndim or exact.shape[-1] < 2:
        raise ConfigError(
            f"an output of shape {list(exact.shape)} has no classes along its last axis, which 'kl' compares: take "
            "'mse', 'cosine' or a function"
        )
    logs = [np.log(np.maximum(a, _TINY)) if _are_probabilities(exact) else _log_softmax(a) for a in (exact, found)]
    return float(np.mean(np.sum(np.exp(logs[0]) * (logs[0] - logs[1]), axis=-1)))


def _are_probabilities(array: Array) -> bool:
    return bool(array.min() >= 0 and np.allclose(array.sum(axis=-1), 1.0, atol=1e-3))


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True)))


def _squared_error(exact: Array, found: Array) -> float:
    """Take the mean square of the difference as a fraction of the mean square in float."""
    return float(np.mean(np.square(exact - found)) / max(float(np.mean(np.square(exact))), _TINY))


def _angle(exact: Array, found: Array) -> float:
    """Take one minus the cosine of all outputs as one vector; PaddleSlim's measure where there is no metric."""
    product = float(np.linalg.norm(exact) * np.linalg.norm(found))
    return 1.0 - float(np.vdot(exact, found)) / product if product else float(np.any(exact != found))


OUTPUT_LOSSES: Final[Mapping[str, Callable[[Array, Array], float]]] = {
    'kl': _divergence,
    'mse': _squared_error,
    'cosine': _angle,
}
