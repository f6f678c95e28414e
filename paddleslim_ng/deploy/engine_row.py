"""One model on one engine: a line of the table of measured figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from paddleslim_ng.deploy.engines import ENGINES
from paddleslim_ng.deploy.kernel_count import KernelCount
from paddleslim_ng.deploy.verification import Figures
from paddleslim_ng.runtime.latency import Latency

__all__ = ['EngineRow', 'counterpart', 'measured', 'percent']

_MEANINGLESS: Final = 10


@dataclass(frozen=True)
class EngineRow:
    """One model on one engine.

    Attributes:
        model: label of the model.
        engine: name of the engine, of :data:`paddleslim_ng.deploy.engines.ENGINES`.
        latency: of one run; None where the engine did not run the model.
        memory_mb: peak resident megabytes (10^6 bytes) beyond interpreter and libraries.
        difference: largest difference from the outputs of the first engine that ran this model, as a fraction of their
            largest absolute value.
        quantized: the model has quantization operators.
        note: why it did not run, or what to know about the figures.
        kernels: of a quantized model, its convolutions and products, as the engine computes them.
        distance: of a quantized model, its outputs against those of the original on its first engine.
    """

    model: str
    engine: str
    latency: Latency | None = None
    memory_mb: float | None = None
    difference: float | None = None
    quantized: bool = False
    note: str = ''
    kernels: KernelCount | None = None
    distance: Figures | None = None

    @property
    def title(self) -> str:
        """The engine's name in sentences."""
        return ENGINES[self.engine].title


def measured(rows: Sequence[EngineRow], model: str | None, engine: str) -> EngineRow | None:
    """Return the row of a model and an engine, if that engine ran it."""
    return next((row for row in rows if (row.model, row.engine) == (model, engine) and row.latency is not None), None)


def counterpart(rows: Sequence[EngineRow], baseline: str | None, engine: str) -> EngineRow | None:
    """Return the row of the original that an engine's figures stand beside.

    That is the same engine, or where it does not run the original, the one that does the same in float.
    """
    found = measured(rows, baseline, engine)
    in_float = ENGINES[engine].in_float
    return found if found is not None or in_float is None else measured(rows, baseline, in_float)


def percent(fraction: float) -> str:
    """Write a difference; beyond ten times the scale its size says nothing."""
    return f'{fraction:.1%}' if fraction < _MEANINGLESS else f'more than {_MEANINGLESS:.0%}'
