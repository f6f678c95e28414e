"""What a compression job may use, and what its result may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from paddleslim_ng.analysis import flops, model_size

__all__ = ['Budget']


@dataclass(frozen=True)
class Budget:
    """What a job may use and what its result may cost; None sets no limit.

    Attributes:
        seconds: time of all runs together; training stops at the end of the epoch in which it is used up, but not
            before the last ``end_epoch`` of a strategy.
        macs: multiply-accumulates of the evaluation program's convolutions and matrix products, for one sample, as
            :func:`paddleslim_ng.analysis.flops` counts them.
        params: elements of its parameters.
    """

    seconds: float | None = None
    macs: int | None = None
    params: int | None = None

    def exceeded(self, program: Any, seconds: float) -> list[str]:
        """Say which limits do not hold, in words.

        Args:
            program: the evaluation program.
            seconds: time used.
        """
        said = []
        if self.seconds is not None and seconds >= self.seconds:
            said.append(f'{seconds:.0f} of {self.seconds:g} seconds are used')
        for limit, what, count in ((self.macs, 'multiply-accumulates', _macs), (self.params, 'parameters', model_size)):
            found = count(program) if limit is not None else 0
            if limit is not None and found > limit:
                said.append(f'{found:,} {what}, where {limit:,} are allowed')
        return said


def _macs(program: Any) -> int:
    return flops(program)
