"""What became of a saved model: files, figures and times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from paddleslim_ng.analysis import ModelFigures
from paddleslim_ng.compress.result import CompressionResult
from paddleslim_ng.deploy import LiteModel, Measurement
from paddleslim_ng.runtime import SavedModel

__all__ = ['COMPRESSED', 'GIVEN', 'AutoCompressed', 'shown']

#: Names of the model that was given, and of the compressed one in float.
GIVEN: Final = 'given'
COMPRESSED: Final = 'compressed'
_COSTS: Final[Mapping[str, str]] = {'FLOPs': 'flops', 'parameters': 'params', 'bytes': 'file_bytes'}


@dataclass(frozen=True)
class AutoCompressed:
    """What :func:`auto_compress` made.

    Attributes:
        model: the compressed model in float.
        models: what else was written, by strategy and kind, such as ``{'quantization': {'int8': ...}}``.
        figures: costs and sizes by model: ``'given'``, ``'compressed'``, and those of integers.
        metrics: what each of these models computes, read back from its files: ``{model: {metric: value}}``.
        measured: times of all models on the engines of this machine; None where nothing was measured.
        result: of the job.
        report: the page that tells all of it.
        checkpoints: folder of the checkpoints.
        went_on: epoch and batch where an interrupted job was taken up, or None.
        notes: what could not be counted.
    """

    model: SavedModel
    models: Mapping[str, Mapping[str, Any]]
    figures: Mapping[str, ModelFigures]
    metrics: Mapping[str, Mapping[str, float]]
    measured: Measurement | None
    result: CompressionResult
    report: Path
    checkpoints: Path
    went_on: tuple[int, int] | None = None
    notes: Sequence[str] = ()

    @property
    def before(self) -> ModelFigures:
        """Cost and size of the model that was given."""
        return self.figures[GIVEN]

    @property
    def after(self) -> ModelFigures:
        """Cost and size of the compressed model in float."""
        return self.figures[COMPRESSED]

    @property
    def files(self) -> dict[str, Path]:
        """What was written: the model in float, then the files of strategies, by strategy and kind."""
        return {COMPRESSED: self.model.program_file, **{label: _file_of(made) for label, made in self._written()}}

    @property
    def lite(self) -> list[LiteModel]:
        """Files for Paddle Lite."""
        return [made for _, made in self._written() if isinstance(made, LiteModel)]

    @property
    def verdict(self) -> list[str]:
        """What the measured times mean, and what files for other devices hold, one sentence per entry."""
        return [*(self.measured.verdict if self.measured is not None else []), *(one.summary for one in self.lite)]

    def _written(self) -> Iterator[tuple[str, Any]]:
        for name, all_of in self.models.items():
            for kind, made in all_of.items():
                yield f'{name}, {kind}', made

    def as_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        costs = {
            label: {title.lower(): getattr(one, name) for title, name in _COSTS.items()}
            for label, one in self.figures.items()
        }
        return {
            'files': {label: str(path) for label, path in self.files.items()},
            'models': {label: {**found, **self.metrics.get(label, {})} for label, found in costs.items()},
            'epochs': [record.as_dict() for record in self.result.records],
            'went_on': list(self.went_on) if self.went_on is not None else None,
            'stopped': self.result.stopped,
            'measured': self.measured.as_dict() if self.measured is not None else None,
            'verdict': self.verdict,
            'notes': list(self.notes),
            'report': str(self.report),
            'checkpoints': str(self.checkpoints),
        }

    def __str__(self) -> str:
        """Report in words."""
        files = [f'{COMPRESSED}: {self.model.program_file}', *(f'{label}: {made}' for label, made in self._written())]
        parts = [list(self._table()), self.notes, files]
        parts += [[self.measured.table]] if self.measured is not None else []
        parts += [[f'- {sentence}' for sentence in self.verdict]]
        return '\n\n'.join('\n'.join(part) for part in parts if part)

    def _table(self) -> Iterator[str]:
        labels = list(self.figures)
        rows = [('', labels)]
        rows += [(key, [shown(getattr(self.figures[label], name)) for label in labels]) for key, name in _COSTS.items()]
        for name in self.metrics[GIVEN]:
            rows += [(name, [shown(self.metrics.get(label, {}).get(name)) for label in labels])]
        width = max(16, *(len(label) + 2 for label in labels))
        for title, cells in rows:
            yield f'{title:12}{"".join(f"{cell:>{width}}" for cell in cells)}'.rstrip()


def shown(value: float | None) -> str:
    """Return a figure as tables have it; an unknown one is empty."""
    if value is None:
        return ''
    return f'{value:.4f}' if isinstance(value, float) else f'{value:,}'


def _file_of(made: Any) -> Path:
    return Path(made.file if isinstance(made, LiteModel) else made.program_file)
