"""Proof that a fast engine computes what Paddle's executor computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ['EngineReport', 'compare_outputs']

_TOLERANCE = 2e-5
# A figure of a whole batch, such as an accuracy, may move by one sample that sits on the fence.
_FLIPS = 1.5


@dataclass(frozen=True)
class EngineReport:
    """How an engine compared with Paddle's executor on the first batch.

    Attributes:
        engine: its name.
        difference: largest absolute difference of the fetched values.
        relative_difference: the same as a fraction of the largest absolute value of its tensor.
        samples: size of the batch.
        flipped: samples with another largest score.
        agrees: whether the differences are within rounding (2e-5 of the scale).
    """

    engine: str
    difference: float = 0.0
    relative_difference: float = 0.0
    samples: int = 0
    flipped: int = 0
    agrees: bool = True

    def __str__(self) -> str:
        return (
            f'engine {self.engine}: outputs differ from the executor by {self.difference:.3g} '
            f'({self.relative_difference:.3g} of their scale), {self.flipped} of {self.samples} samples flipped'
        )


def compare_outputs(
    engine: str, expected: Sequence[npt.NDArray[Any]], found: Sequence[npt.NDArray[Any]], samples: int
) -> EngineReport:
    """Compare the outputs of an engine for one batch of ``samples`` with those of the executor."""
    if [np.shape(array) for array in expected] != [np.shape(array) for array in found]:
        return EngineReport(engine, float('inf'), float('inf'), samples, 0, False)
    difference = relative = 0.0
    flipped, agrees = 0, True
    for reference, other in zip(expected, found):
        mine, theirs = np.asarray(reference, np.float64), np.asarray(other, np.float64)
        if not mine.size:
            continue
        gap = float(np.max(np.abs(mine - theirs)))
        scale = float(np.max(np.abs(mine)))
        part = gap / scale if scale else gap
        difference, relative = max(difference, gap), max(relative, part)
        slack = _FLIPS / samples if mine.size < samples else 0.0
        agrees = agrees and bool(gap <= _TOLERANCE * scale + slack)
        if mine.ndim == 2 and mine.shape[1] > 1:
            flipped += int((mine.argmax(1) != theirs.argmax(1)).sum())
    return EngineReport(engine, difference, relative, samples, flipped, agrees)
