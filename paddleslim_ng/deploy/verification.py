"""Figures that compare the outputs of a file with those of its reference, and what they amount to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import EquivalenceError

__all__ = ['Figures', 'Verification', 'compare_outputs']

Outputs = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True)
class Figures:
    """How the outputs of several fresh predictors relate to the reference and to each other.

    Attributes:
        predictors: fresh predictors that were run.
        finite: every output is.
        constant: some output has a single value where the reference has several.
        spread: largest absolute difference between two predictors.
        relative_spread: the same, as a fraction of the largest absolute output of the reference.
        difference: largest absolute difference from the reference, over all predictors.
        relative_difference: the same, as a fraction of the largest absolute output of the reference.
        top1: share of rows, of outputs with at least two axes, whose largest entry is that of the reference's row.
    """

    predictors: int
    finite: bool
    constant: bool
    spread: float
    relative_spread: float
    difference: float
    relative_difference: float
    top1: float

    def failures(self, tolerance: float) -> tuple[str, ...]:
        """Say what is wrong, given the largest relative difference allowed."""
        found = []
        if not self.finite:
            found.append('the outputs are not finite')
        if self.constant:
            found.append('the outputs are constant, and the reference is not')
        if not self.relative_spread <= tolerance:
            found.append(
                f'{self.predictors} fresh predictors of the same file disagree by {self.spread:.3g}, '
                f'{self.relative_spread:.3g} of the scale of the outputs'
            )
        if not self.relative_difference <= tolerance:
            found.append(
                f'the outputs differ from the reference by {self.difference:.3g}, {self.relative_difference:.3g} of '
                f'the scale of the outputs (allowed: {tolerance:.3g})'
            )
        return tuple(found)

    def __str__(self) -> str:
        return (
            f'max difference {self.difference:.3g} ({self.relative_difference:.3g} of the scale), top-1 agreement '
            f'{self.top1:.3g}, {self.predictors} fresh predictors within {self.spread:.3g}'
        )


def compare_outputs(reference: Outputs, runs: Sequence[Outputs]) -> Figures:
    """Compare the outputs of several fresh predictors with those of the reference.

    Args:
        reference: outputs of the reference, in order.
        runs: the outputs of each predictor, in the same order and of the same shapes.
    """
    expected = [np.asarray(array, dtype=np.float64) for array in reference]
    found = [[np.asarray(array, dtype=np.float64) for array in outputs] for outputs in runs]
    scales = [_largest(array) for array in expected]
    gaps = [[_gap(a, b) for a, b in zip(outputs, expected)] for outputs in found]
    spreads = [max((_gap(a[i], b[i]) for a in found for b in found), default=0.0) for i in range(len(expected))]
    return Figures(
        predictors=len(found),
        finite=all(bool(np.isfinite(array).all()) for outputs in found for array in outputs),
        constant=any(_is_constant(a) and not _is_constant(b) for outputs in found for a, b in zip(outputs, expected)),
        spread=max(spreads, default=0.0),
        relative_spread=max(map(_ratio, spreads, scales), default=0.0),
        difference=max((gap for row in gaps for gap in row), default=0.0),
        relative_difference=max((_ratio(gap, scale) for row in gaps for gap, scale in zip(row, scales)), default=0.0),
        top1=_top1(expected, found),
    )


def _largest(array: npt.NDArray[Any]) -> float:
    return float(np.max(np.abs(array))) if array.size else 0.0


def _gap(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Return the largest absolute difference; infinity where it is not a number."""
    if not first.size:
        return 0.0
    with np.errstate(invalid='ignore'):
        gap = float(np.max(np.abs(first - second)))
    return gap if np.isfinite(gap) else float('inf')


def _ratio(gap: float, scale: float) -> float:
    return gap / scale if scale else gap


def _is_constant(array: npt.NDArray[Any]) -> bool:
    return array.size > 1 and bool((array == array.flat[0]).all())


def _top1(expected: Outputs, found: Sequence[Outputs]) -> float:
    hits = [
        a.argmax(-1) == b.argmax(-1)
        for outputs in found
        for a, b in zip(outputs, expected)
        if b.ndim >= 2 and b.shape[-1] > 1
    ]
    return float(np.mean(np.concatenate([hit.ravel() for hit in hits]))) if hits else 1.0


@dataclass(frozen=True)
class Verification:
    """The result of :func:`paddleslim_ng.deploy.verify`.

    Attributes:
        file: what was verified.
        runtime: the runtime that executes such files.
        executed: whether it was run; otherwise only its structure was read.
        figures: the comparison with the reference; None where the file was not executed.
        tolerance: largest relative difference allowed.
        failures: what is wrong; empty where all is well.
        notes: what to know besides.
    """

    file: Path
    runtime: str
    executed: bool
    figures: Figures | None
    tolerance: float
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Nothing is wrong, as far as was looked at: see ``executed``."""
        return not self.failures

    def raise_for_failure(self) -> None:
        """Raise EquivalenceError, with everything that is wrong, unless the file passed."""
        if self.failures:
            raise EquivalenceError(f'{self.file.name} on {self.runtime}: {"; ".join(self.failures)}')

    def __str__(self) -> str:
        if not self.executed:
            verdict = 'structure verified, not executed'
        else:
            verdict = f'{"equal to the reference" if self.passed else "FAILED"}: {self.figures}'
        lines = [f'{self.file.name} on {self.runtime}: {verdict}', *self.failures, *self.notes]
        return '\n  '.join(lines)
