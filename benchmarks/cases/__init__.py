"""The benchmarks, by name."""

from __future__ import annotations

from harness import Case

from cases import calibration, depth, distillation, int8_inference, prune_resnet50, sensitivity, sparse, wrapper

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
        int8_inference.CASE,
        wrapper.CASE,
    )
}
