"""From one saved inference model to another, with no training script: the float model is the teacher."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Union

import numpy as np
import paddle

from paddleslim_ng.analysis import ModelFigures, Report, ReportTable, flops, layer_costs, model_size, write_report
from paddleslim_ng.compress.compressor import Compressor
from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.optimizers import OptimizerLike
from paddleslim_ng.compress.plugins import Distiller, L2Distiller, SoftLabelDistiller
from paddleslim_ng.compress.readers import Reader
from paddleslim_ng.compress.result import CompressionResult
from paddleslim_ng.compress.trainable import evaluation_program, trainable_program
from paddleslim_ng.compress.trainer import Trainer
from paddleslim_ng.compress.trainer_options import EpochRecord, TrainerOptions
from paddleslim_ng.core import Executor, GraphWrapper, clone_program
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.deploy import Measurement, measure
from paddleslim_ng.dist import merge
from paddleslim_ng.errors import ConfigError, DataError, nearest_names
from paddleslim_ng.quant import float_program
from paddleslim_ng.quant.output_distance import OutputDistance
from paddleslim_ng.runtime import InferenceModel, SavedModel, load_inference_model, save_inference_model
from paddleslim_ng.runtime.model_files import find_model

if TYPE_CHECKING:
    from paddleslim_ng.compress.configuration import CompressionConfig

__all__ = ['AutoCompressed', 'auto_compress']

_LOG = logging.getLogger('paddleslim_ng')
_LOSSES: Final[Mapping[str, Callable[[], Distiller]]] = {'l2': L2Distiller, 'soft_label': SoftLabelDistiller}
_NEAR: Final = 0.01
_Config = Union['CompressionConfig', Mapping[str, Any], str, 'os.PathLike[str]']
EvalFunction = Callable[[Any, Any, list[str], list[Any]], Any]


@dataclass(frozen=True)
class AutoCompressed:
    """What :func:`auto_compress` made.

    Attributes:
        model: the compressed model in float.
        models: what else was written, by strategy and kind, such as ``{'quantization': {'int8': ...}}``.
        before: cost and size of the model that was given.
        after: the same of the compressed one.
        metrics_before: of the model that was given.
        metrics: of the compressed model, quantized where it was trained quantized.
        measured: times of all models on the engines of this machine; None where nothing was measured.
        result: of the job.
        report: the page that tells all of it.
    """

    model: SavedModel
    models: Mapping[str, Mapping[str, Any]]
    before: ModelFigures
    after: ModelFigures
    metrics_before: Mapping[str, float]
    metrics: Mapping[str, float]
    measured: Measurement | None
    result: CompressionResult
    report: Path

    @property
    def verdict(self) -> list[str]:
        """What the measured times mean, one sentence per entry."""
        return self.measured.verdict if self.measured is not None else []

    def __str__(self) -> str:
        """Report in words."""
        lines = [
            f'{one.label}: {one.flops or 0:,} multiply-accumulates, {one.params or 0:,} parameters, '
            f'{one.file_bytes or 0:,} bytes'
            for one in (self.before, self.after)
        ]
        lines += [
            f'{name}: {self.metrics_before[name]:.4g} before, {value:.4g} after'
            for name, value in self.metrics.items()
            if name in self.metrics_before
        ]
        lines += [f'{name}, {kind}: {made}' for name, all_of in self.models.items() for kind, made in all_of.items()]
        return '\n'.join([*lines, *([str(self.measured)] if self.measured is not None else [])])


def auto_compress(
    model_dir: str | os.PathLike[str] | None,
    train_data: Any,
    eval_data: Any,
    config: _Config,
    save_dir: str | os.PathLike[str],
    *,
    model_filename: str | None = None,
    params_filename: str | None = None,
    eval_function: EvalFunction | None = None,
    loss: str | Distiller = 'l2',
    train_optimizer: OptimizerLike | None = None,
    place: Any = None,
    measured: bool = True,
    engines: list[str] | None = None,
    repeats: int = 50,
) -> AutoCompressed:
    """Compress a saved inference model by the strategies of a configuration; neither labels nor a script are needed.

    The loss is distillation from the model as it was given, a teacher that stays as it is: ``'l2'``, the mean square
    difference of what the last layers with weights compute (of a classifier, its logits), or ``'soft_label'``, the
    cross-entropy between their softmax, for classifiers alone. Strategies of the configuration see this loss as the
    network's own. Evaluated is the distance from the outputs of the given model (``distance``: 0 is the same, 1 is what
    zeros have), and what ``eval_function`` says.

    Args:
        model_dir: path without suffix, or folder, of a model of either format; that of the configuration where None.
        train_data: batches of the model's inputs, in any form that :class:`~paddleslim_ng.compress.Compressor` takes.
        eval_data: batches to compare outputs on; None where there is an ``eval_function``.
        config: a YAML file, a mapping like one, or a loaded configuration, this package's or PaddleSlim's
            AutoCompression.
        save_dir: folder of the results: ``model`` in float, ``int8`` where a strategy quantizes and names no path of
            its own, and ``report.html``.
        model_filename: name of the program file in ``model_dir``.
        params_filename: name of the parameter file in ``model_dir``.
        eval_function: ``function(executor, program, feed names, fetch targets)`` returns a number, the ``metric``, or
            ``{name: number}``. With ``target_metric`` of the configuration, training ends when ``metric`` reaches it.
        loss: see above; or a distiller.
        train_optimizer: that of the configuration where None.
        place: device; the CPU where None.
        measured: time the models on the engines of this machine.
        engines: names of :data:`slim.deploy.ENGINES`; all where None.
        repeats: counted runs of each model on each engine.

    Returns:
        The files with their figures; ``print`` it.

    Raises:
        ConfigurationError: the configuration is wrong; nothing has been read then.
        ConfigError: an argument is unusable.
        DataError: the model or the data cannot be used.
        EquivalenceError: a file does not compute what was compressed.

    Example:
        >>> print(slim.auto_compress('float/model', images, test_images, 'compress.yaml', 'compressed'))
    """
    from paddleslim_ng.compress.configuration import CompressionConfig, load_config
    from paddleslim_ng.compress.strategies.rebuilding import is_quantized

    settings = config if isinstance(config, CompressionConfig) else load_config(config)
    distiller = _distiller(loss)
    if eval_data is None and eval_function is None:
        raise ConfigError('nothing tells how good a model is: give eval_data, or eval_function')
    saved = settings.saved_model
    path = model_dir if model_dir is not None else getattr(saved, 'model_dir', None)
    if path is None:
        raise ConfigError('model_dir is missing, here and in the configuration')
    names = {
        'model_filename': model_filename or getattr(saved, 'model_filename', None),
        'params_filename': params_filename or getattr(saved, 'params_filename', None),
    }
    source = load_inference_model(path, paddle.static.Scope(), Executor(place), **names)
    teacher = load_inference_model(path, paddle.static.Scope(), Executor(place), **names)
    job = _Job(source, teacher, eval_data, eval_function, place)
    compressor = job.compressor(train_data, distiller, train_optimizer, getattr(saved, 'target_metric', None))
    compressor.config(settings)
    folder = Path(save_dir)
    _default_paths(compressor, folder)
    metrics_before = job.metrics(job.given, source.scope)
    _compare_with_origin(metrics_before, getattr(saved, 'origin_metric', None))
    result = compressor.run()
    network = result.eval_program
    metrics = job.metrics(network, result.scope)
    bare = float_program(network) if is_quantized(network) else network
    outputs = [GraphWrapper.name_of(item) for item in source.fetches]
    model = save_inference_model(bare, folder / 'model', source.feeds, outputs, result.scope, feed=job.example)
    written = {name: getattr(one, 'models', None) for name, one in compressor.strategies.items()}
    models = {name: dict(made) for name, made in written.items() if made}
    figures = (
        _figures('given', teacher.program, _file_bytes(path, names)),
        _figures('compressed', bare, model.file_bytes),
    )
    times = _measure(teacher, folder / 'model', models, job.example, engines, repeats) if measured else None
    report = folder / 'report.html'
    made = AutoCompressed(model, models, *figures, metrics_before, metrics, times, result, report)
    write_report(report, _page(made, job.given, bare))
    return made


class _Job:
    """A model, its teacher, and how it is evaluated."""

    def __init__(
        self,
        source: InferenceModel,
        teacher: InferenceModel,
        eval_data: Any,
        eval_function: EvalFunction | None,
        place: Any,
    ) -> None:
        self.source, self.teacher, self.place = source, teacher, place
        self.outputs = [GraphWrapper.name_of(item) for item in source.fetches]
        self.given = evaluation_program(source)
        self.feeds = [(name, name) for name in source.feeds]
        self._function = eval_function
        self._distance: OutputDistance | None = None
        self.example: dict[str, Any] | None = None
        if eval_data is not None:
            batches = list(Reader(eval_data, self.feeds, 'eval_data').feeds(self.given))
            self.example = batches[0]
            self._distance = OutputDistance(teacher, batches, place)

    def metrics(self, program: Any, scope: Any) -> dict[str, float]:
        """Return all figures of a network."""
        graph = GraphWrapper(clone_program(program, for_test=True))
        model = InferenceModel(graph.program, self.source.feeds, [graph.var(n).raw for n in self.outputs], scope)
        found: dict[str, float] = {}
        if self._distance is not None:
            found['distance'] = self._distance(model)
        if self._function is not None:
            with matching_ir(model.program), paddle.static.scope_guard(scope):
                said = self._function(Executor(self.place), model.program, list(model.feeds), list(model.fetches))
            table = said if isinstance(said, Mapping) else {'metric': said}
            found.update({str(name): float(np.mean(value)) for name, value in table.items()})
        return found

    def compressor(
        self, train_data: Any, distiller: Distiller, optimizer: OptimizerLike | None, target: float | None
    ) -> Compressor:
        """Return the compressor of a trainable copy, whose loss is the distance from the teacher."""
        train, fetches = trainable_program(self.source), [(name, name) for name in self.outputs]
        inputs = {name: name for name in self.source.feeds}
        merged = merge(self.teacher, train, inputs, self.place, self.source.scope, feed=self.example)
        with matching_ir(train), paddle.static.program_guard(train, paddle.static.Program()):
            total = GraphWrapper.name_of(distiller.loss(train, merged, paddle.static.default_startup_program()))
            startup = paddle.static.default_startup_program()
        Executor(self.place).run(startup, scope=self.source.scope)
        return Compressor(
            self.place,
            self.source.scope,
            train,
            train_data,
            self.feeds,
            [('loss', total)],
            clone_program(self.given),
            None,
            self.feeds,
            fetches,
            eval_func={'metrics': self.metrics},
            train_optimizer=optimizer,
            trainer=_trainer_until(target),
        )


def _distiller(given: str | Distiller) -> Distiller:
    if isinstance(given, Distiller):
        return given
    if given not in _LOSSES:
        raise ConfigError(f'unknown loss {given!r}{nearest_names(str(given), _LOSSES)}; known: {", ".join(_LOSSES)}')
    return _LOSSES[given]()


def _trainer_until(target: float | None) -> Callable[[Context, TrainerOptions], Trainer]:
    class UntilTarget(Trainer):
        """Ends when the metric is good enough."""

        def should_stop(self, record: EpochRecord) -> str | None:
            reached = record.metrics.get('metric')
            if target is not None and reached is not None and reached >= target:
                return f'the metric {reached:g} has reached {target:g}'
            return super().should_stop(record)

    return UntilTarget


def _default_paths(compressor: Compressor, folder: Path) -> None:
    """Let strategies that quantize write integers below the folder of results, where they say nothing else."""
    from paddleslim_ng.compress.strategies import PostTrainingQuantStrategy, QuantizationStrategy

    quantizing = [
        one
        for one in compressor.strategies.values()
        if isinstance(one, (QuantizationStrategy, PostTrainingQuantStrategy))
    ]
    for one in quantizing:
        if one.paths.int8 is None:
            name = 'int8' if len(quantizing) == 1 else f'int8-{one.name}'
            one.paths = replace(one.paths, int8=str(folder / name))


def _compare_with_origin(metrics: Mapping[str, float], origin: float | None) -> None:
    found = metrics.get('metric')
    if origin is not None and found is not None and abs(found - origin) > _NEAR * max(abs(origin), _NEAR):
        _LOG.warning('the metric of the given model is %g, and origin_metric says %g', found, origin)


def _figures(label: str, program: Any, file_bytes: int | None) -> ModelFigures:
    return ModelFigures(label, flops=int(flops(program)), params=model_size(program), file_bytes=file_bytes)


def _file_bytes(path: str | os.PathLike[str], names: Mapping[str, str | None]) -> int | None:
    """Return the size of a saved model, or None where each parameter has a file of its own."""
    files = find_model(path, **names)
    if not files.parameters.is_file():
        return None
    return files.program.stat().st_size + files.parameters.stat().st_size


def _measure(
    teacher: InferenceModel,
    path: Path,
    models: Mapping[str, Mapping[str, Any]],
    feed: Mapping[str, Any] | None,
    engines: list[str] | None,
    repeats: int,
) -> Measurement | None:
    if feed is None:
        raise DataError('times are measured on the first batch of eval_data: give it, or measured=False')
    candidates: dict[str, Any] = {'given': teacher, 'compressed': str(path)}
    for name, made in models.items():
        if 'int8' in made:
            candidates['int8' if len(models) == 1 else f'int8-{name}'] = str(made['int8'].prefix)
    one = {name: array[:1] for name, array in feed.items()}
    return measure(candidates, one, original=None, engines=engines, repeats=repeats)


def _page(made: AutoCompressed, before: Any, after: Any) -> Report:
    rows = [
        (name, f'{made.metrics_before.get(name, float("nan")):.4g}', f'{value:.4g}')
        for name, value in made.metrics.items()
    ]
    return Report(
        'Compressed model',
        models=[made.before, made.after],
        layers_before=list(layer_costs(before)),
        layers_after=list(layer_costs(after)),
        tables=[ReportTable('Metrics', ('metric', 'given', 'compressed'), rows)],
        notes=made.verdict,
        environment={'paddle': paddle.__version__},
    )
