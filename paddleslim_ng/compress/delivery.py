"""The end of a job on a saved model: its files are written, read back, measured and reported."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import paddle

from paddleslim_ng.analysis import LayerCost, ModelFigures, layer_costs, model_size, write_report
from paddleslim_ng.compress.auto_compressed import COMPRESSED, GIVEN, AutoCompressed
from paddleslim_ng.compress.auto_compressed_page import report_of
from paddleslim_ng.compress.compressor import Compressor
from paddleslim_ng.compress.result import CompressionResult
from paddleslim_ng.compress.saved_model_job import SavedModelJob
from paddleslim_ng.core import Executor
from paddleslim_ng.deploy import ENGINES, Measurement, measure
from paddleslim_ng.errors import ConfigError, GraphError, UnsupportedOpError, nearest_names
from paddleslim_ng.runtime import load_inference_model, save_inference_model

__all__ = ['MODEL', 'Timing', 'deliver']

MODEL: Final = 'model'
_REPORT: Final = 'report.html'
# What a strategy may have written that computes with integers on this machine, the first that is there.
_INTEGERS: Final = ('int8', 'inference')
# The engine that runs every model.
_EVERYWHERE: Final = 'plain'


class Timing(NamedTuple):
    """How models are timed; see :func:`slim.deploy.measure`."""

    engines: Sequence[str] | None
    repeats: int
    interpreter: str | os.PathLike[str] | None

    def require(self) -> None:
        """Raise ConfigError for what could not be measured, before there is something to measure."""
        for name in self.engines or ():
            if name not in ENGINES:
                raise ConfigError(f'unknown engine {name!r}; known: {", ".join(ENGINES)}{nearest_names(name, ENGINES)}')
        if self.repeats < 1:
            raise ConfigError(f'repeats is a number of runs from 1, not {self.repeats!r}')


def deliver(
    job: SavedModelJob,
    compressor: Compressor,
    result: CompressionResult,
    folder: Path,
    before: Mapping[str, float],
    timing: Timing | None,
    went_on: tuple[int, int] | None,
) -> AutoCompressed:
    """Write the compressed model in float, measure it beside the given one and those of integers, and write the page.

    Args:
        job: around the given model.
        compressor: that has run.
        result: what it returned.
        folder: for the files.
        before: metrics of the given model.
        timing: how models are timed; they are not where None.
        went_on: where an interrupted job was taken up.

    Raises:
        EquivalenceError: a file does not compute what was compressed.
    """
    bare = result.float_program()
    model = save_inference_model(bare, folder / MODEL, job.inputs, job.outputs, result.scope, feed=job.example)
    written = {name: getattr(one, 'models', None) for name, one in compressor.strategies.items()}
    models = {name: dict(made) for name, made in written.items() if made}
    integers = _integers(models)
    (costs_before, first), (costs_after, second) = _costs(job.given, job.shapes), _costs(bare, job.shapes)
    figures = {
        GIVEN: _figures(GIVEN, job.given, costs_before, job.file_bytes),
        COMPRESSED: _figures(COMPRESSED, bare, costs_after, model.file_bytes),
        **{label: ModelFigures(label, file_bytes=made.file_bytes) for label, made in integers.items()},
    }
    paths = {COMPRESSED: folder / MODEL, **{label: made.prefix for label, made in integers.items()}}
    metrics = {GIVEN: dict(before), **{label: _metrics(job, path) for label, path in paths.items()}}
    measured = _times(job, paths, timing) if timing is not None else None
    made = AutoCompressed(
        model,
        models,
        _with_latencies(figures, measured) if measured is not None else figures,
        metrics,
        measured,
        result,
        folder / _REPORT,
        Path(str(compressor.checkpoint_path)),
        went_on,
        tuple(dict.fromkeys(note for note in (first, second) if note)),
    )
    title = f'{job.files.program.stem}, compressed'
    write_report(made.report, report_of(made, title, costs_before, costs_after, compressor.strategies))
    return made


def _integers(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the models of integers that strategies have written, by the names that tables give them."""
    found = {name: next((made[kind] for kind in _INTEGERS if kind in made), None) for name, made in models.items()}
    present = {name: made for name, made in found.items() if made is not None}
    return {'int8' if len(present) == 1 else f'int8 of {name}': made for name, made in present.items()}


def _costs(program: Any, shapes: Mapping[str, Sequence[int]]) -> tuple[list[LayerCost], str]:
    """Return the costs of all layers, or none and the reason why they are not known."""
    try:
        return layer_costs(program, input_shapes={name: list(shape) for name, shape in shapes.items()}), ''
    except (GraphError, UnsupportedOpError) as error:
        return [], f'the FLOPs are not counted: {error}'


def _figures(label: str, program: Any, costs: Sequence[LayerCost], file_bytes: int) -> ModelFigures:
    macs = sum(row.macs for row in costs) if costs else None
    return ModelFigures(label, flops=macs, params=model_size(program), file_bytes=file_bytes)


def _metrics(job: SavedModelJob, path: Path) -> dict[str, float]:
    """Measure a model as its files have it."""
    return job.metrics_of(load_inference_model(path, paddle.static.Scope(), Executor(job.place)))


def _times(job: SavedModelJob, paths: Mapping[str, Path], timing: Timing) -> Measurement:
    """Time all models on one sample, beside the given one."""
    sample = {name: array[:1] for name, array in job.example.items()}
    return measure(
        {GIVEN: job.files, **paths},
        sample,
        engines=timing.engines,
        repeats=timing.repeats,
        interpreter=timing.interpreter,
    )


def _with_latencies(figures: Mapping[str, ModelFigures], measured: Measurement) -> dict[str, ModelFigures]:
    """Return figures with the times of the engine that runs every model."""
    found = {row.model: row.latency for row in measured.rows if row.engine == _EVERYWHERE}
    return {label: replace(one, latency=found.get(label)) for label, one in figures.items()}
