"""Programs without the fake quantizers that a strategy put in: what others rebuild and save."""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.core.cloning import forward_program
from paddleslim_ng.quant import float_program
from paddleslim_ng.quant.aware_records import recorded

__all__ = ['float_forward', 'is_quantized']


def is_quantized(program: Any) -> bool:
    """Tell whether fake quantizers are in a program."""
    return bool(recorded(GraphWrapper(program)))


def float_forward(program: Any) -> Any:
    """Copy the forward part of a training program without fake quantizers.

    What updates their scales goes with the optimizer, so that they cannot stay; the strategy that put them in follows.
    """
    return float_program(program, for_test=False) if is_quantized(program) else forward_program(program)
