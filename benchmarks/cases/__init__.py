"""The benchmarks, by name."""

from __future__ import annotations

from harness import Case

from cases import calibration, depth, distillation, prune_resnet50, sensitivity, sparse, wrapper

__all__ = ['CASES']

CASES: dict[str, Case] = {
    case.key: case
    for case in (
        prune_resnet50.CASE,
        depth.CASE,
        sensitivity.CASE,
        sparse.CASE,
        distillation.CASE,
        calibration.CASE,
        wrapper.CASE,
    )
}
