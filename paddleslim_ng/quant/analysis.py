"""Which layers a quantized model suffers from: PaddleSlim's analysis, on both IRs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import paddle

from paddleslim_ng.analysis.metric_value import as_metric
from paddleslim_ng.core import Executor
from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.quant.analysed_model import AnalysedModel, calibrated, from_files
from paddleslim_ng.quant.analysis_config import checked_config
from paddleslim_ng.quant.analysis_statistics import summaries, write_statistics
from paddleslim_ng.quant.batch_norm_folding import fold_batch_norm
from paddleslim_ng.quant.error_plots import plot_boxes
from paddleslim_ng.quant.float_layers import fewest_float_layers
from paddleslim_ng.quant.measurements_file import MeasurementsFile, identity_of
from paddleslim_ng.quant.output_loss import joined_batches, output_loss
from paddleslim_ng.quant.static_arguments import load_with_feeds
from paddleslim_ng.quant.stored_tensors import kept_feeds
from paddleslim_ng.quant.target_model import TargetModel, save_target
from paddleslim_ng.runtime.atomic import atomic_write

__all__ = ['Analysis']

_LOG = logging.getLogger(__name__)
_ALL: Final = ' all'  # no name of a layer begins with a space
_FLOAT: Final = ' float'


class Analysis:
    """Measures what each layer's quantization does, draws what tensors hold, and finds a model that is good enough.

    Arguments, methods and files are PaddleSlim's. The data are calibrated with once, for all layers.

    Args:
        float_model_dir: path without suffix, or folder, of the float model, in either format.
        quant_model_dir: the same of a quantized model that this package wrote, with its ``.quantization.json``; layers
            then return to float one by one. Where None, the float model is quantized by ``quant_config``, and layers
            are quantized one by one.
        model_filename: name of the program files in the folders.
        params_filename: name of the parameter files in the folders.
        data_loader: data to calibrate and compare with, in any form that :func:`~paddleslim_ng.quant.read_feeds` knows.
        eval_function: ``eval_function(executor, program, feed_list, fetch_list)`` returns the metric, the larger the
            better. Paddle's global scope is the model's meanwhile. Where None, the cosine of the outputs on the data
            with those in float serves, save for :meth:`get_target_quant_model`.
        resume: take results that ``save_dir`` holds from an analysis of the same model, data and configuration.
        save_dir: folder of what is written; it is created.
        quant_config: see ``paddleslim_ng.quant.analysis_config``.

    Attributes:
        layer_metrics: by layer, what its quantization costs: metric in float less metric with this layer alone
            quantized; or, with ``quant_model_dir``, metric with this layer alone in float less metric of the quantized
            model. With cosines, the same of one minus the cosine.
        sensitivity_ranklist: layers, the most sensitive one first.
        fp_metric: metric of the float model.
        quant_metric: metric with all layers quantized.

    Raises:
        ConfigError: an unknown key or value of ``quant_config``.

    Example:
        >>> analysis = slim.quant.Analysis('float/model', data_loader=images, eval_function=evaluate)
        >>> analysis.metric_error_analyse()
        >>> print(analysis.get_target_quant_model(0.97))
    """

    def __init__(
        self,
        float_model_dir: str | os.PathLike[str],
        quant_model_dir: str | os.PathLike[str] | None = None,
        model_filename: str | None = None,
        params_filename: str | None = None,
        data_loader: Any = None,
        eval_function: Callable[..., Any] | None = None,
        resume: bool = False,
        save_dir: str | os.PathLike[str] = 'analysis_results',
        quant_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.quant_config = checked_config(quant_config)
        self.eval_function = eval_function
        self.save_dir = Path(save_dir)
        self.layer_metrics: dict[str, float] = {}
        self.sensitivity_ranklist: list[str] = []
        self.fp_metric: float | None = None
        self.quant_metric: float | None = None
        self._folders = float_model_dir, quant_model_dir
        self._files = model_filename, params_filename
        self._data = data_loader
        self._resume = resume
        self._prepared: AnalysedModel | None = None

    @property
    def analysed(self) -> AnalysedModel:
        """The model, its quantization and the data, read and calibrated when first asked for.

        Raises:
            ConfigError: there are no data, or nothing can be quantized.
            DataError: model or data cannot be used.
        """
        if self._prepared is None:
            self._prepared = self._read()
        return self._prepared

    def metric_error_analyse(self) -> dict[str, float]:
        """Measure every layer, and write ``analysis.txt`` and ``analysis_checkpoint.json`` to ``save_dir``.

        Returns:
            :attr:`layer_metrics`.

        Raises:
            ConfigError: no data, or an ``eval_function`` that returns no number.
            DataError: model, data or outputs that cannot be used.
            CheckpointError: with ``resume``, results of something else; or the folder cannot be written.
        """
        analysed, state = self.analysed, self._checkpoint()
        layers = list(analysed.layers())
        self.fp_metric = self._measured(state, _FLOAT, ())
        self.quant_metric = self._measured(state, _ALL, layers)
        alone = self._folders[1] is None
        from tqdm import tqdm

        for name in tqdm(layers, desc='quantization analysis', unit='layer', disable=None):
            chosen = [name] if alone else [other for other in layers if other != name]
            metric = self._measured(state, name, chosen)
            self.layer_metrics[name] = self.fp_metric - metric if alone else metric - self.quant_metric
        self.sensitivity_ranklist = sorted(layers, key=lambda name: -self.layer_metrics[name])
        lines = [
            f'layer name: {name}, sensitivity metric: {self.layer_metrics[name]}' for name in self.sensitivity_ranklist
        ]
        self._write('analysis.txt', '\n'.join(lines) + '\n')
        return dict(self.layer_metrics)

    def ranked(self) -> list[tuple[str, float]]:
        """Return layers with what their quantization costs, the most sensitive one first."""
        return [(name, self.layer_metrics[name]) for name in self.sensitivity_ranklist]

    def compute_quant_sensitivity(self, plot_hist: bool = True) -> dict[str, float]:
        """Measure every layer and, if asked to, draw histograms: PaddleSlim's older name.

        Returns:
            :attr:`layer_metrics`. Errors are those of :meth:`metric_error_analyse`.
        """
        found = self.metric_error_analyse()
        if plot_hist:
            self.statistical_analyse()
        return found

    def statistical_analyse(self, analysis_axis: int | None = None) -> list[dict[str, Any]]:
        """Write what activations and weights hold in float and quantized.

        To ``save_dir`` go ``statistic.csv``; box plots ``fp_activation_boxplot.pdf``,
        ``quantized_activation_boxplot.pdf`` and the same for ``weight``; and ``activation_histplot.pdf`` and
        ``weight_histplot.pdf``, both forms in one picture.

        Args:
            analysis_axis: boxes show the largest magnitude for every position along it; single elements where None.

        Returns:
            The rows of the table.

        Raises:
            ConfigError: a tensor has no such axis, or there are no data.
            DataError: tensors that are not finite.
        """
        self._folder()
        return write_statistics(self.save_dir, *summaries(self.analysed, analysis_axis))

    def plot_activation_distribution(self, axis: int | None = None) -> None:
        """Write the box plots of activations alone; see :meth:`statistical_analyse`."""
        activations, _ = summaries(self.analysed, axis)
        self._folder()
        exact = {item.name: item.exact_sample for item in activations}
        plot_boxes(exact, self.save_dir / 'activation_distribution.pdf', 'activations in float')

    def get_target_quant_model(self, target_metric: float) -> TargetModel:
        """Keep the fewest layers in float with which ``eval_function`` reaches a target, and save that model.

        Files are those of :func:`~paddleslim_ng.quant.export_quantized`, in ``save_dir/target_quant_model``. How layers
        are chosen: :func:`~paddleslim_ng.quant.float_layers.fewest_float_layers`, ranked by
        :meth:`metric_error_analyse`.

        Args:
            target_metric: smallest metric that is allowed.

        Returns:
            What was found; its metric is that of the very program that the files are checked against.

        Raises:
            ConfigError: there is no ``eval_function``, or only the float model is good enough.
            EquivalenceError: the files do not compute what was meant.
        """
        if self.eval_function is None:
            raise ConfigError('get_target_quant_model needs an eval_function, whose metric is to reach the target')
        if not self.sensitivity_ranklist:
            self.metric_error_analyse()
        analysed = self.analysed
        layers = list(analysed.layers())
        found = fewest_float_layers(
            self.sensitivity_ranklist,
            lambda kept: self._evaluate([name for name in layers if name not in kept]),
            float(target_metric),
        )
        self._folder()
        format = 'quantize_linear' if self.quant_config['onnx_format'] else 'fake_quantize'
        return save_target(analysed, found, float(target_metric), self.save_dir / 'target_quant_model', format)

    def _read(self) -> AnalysedModel:
        if self._data is None:
            raise ConfigError('the analysis needs data: pass data_loader')
        float_dir, quant_dir = self._folders
        config = self.quant_config
        model, feeds = load_with_feeds(
            None, float_dir, None, *self._files, self._data, False, config['batch_size'], None
        )
        batches = kept_feeds(islice(feeds, config['batch_nums']), model.feeds)
        if config['optimize_model']:
            model = fold_batch_norm(model.program, model.feeds, model.fetches, model.scope).model
        if quant_dir is None:
            return calibrated(model, batches, config)
        return from_files(model, batches, quant_dir, self._files[0])

    def _checkpoint(self) -> MeasurementsFile:
        """Return the results so far."""
        analysed = self.analysed
        identity = identity_of(
            analysed.model, analysed.feeds, quantization=analysed.spec.to_json(), metric=_name_of(self.eval_function)
        )
        self._folder()
        path = self.save_dir / 'analysis_checkpoint.json'
        if not self._resume:
            path.unlink(missing_ok=True)
        return MeasurementsFile.resume(path, identity)

    def _measured(self, state: MeasurementsFile, what: str, layers: Collection[str]) -> float:
        known = state.known(what, 'metric')
        if known is None:
            known = self._evaluate(layers)
            state.add(what, 'metric', known)
            _LOG.debug('%s: %.6g', what.strip(), known)
        return known

    def _evaluate(self, layers: Collection[str]) -> float:
        """Return the metric with some layers quantized; the larger the better."""
        model, _ = self.analysed.form(layers)
        if self.eval_function is None:
            exact, found = (self.analysed.outputs(form) for form in (self.analysed.model, model))
            return 1.0 - output_loss('cosine', joined_batches(exact), joined_batches(found))
        with paddle.static.scope_guard(model.scope):
            value = self.eval_function(Executor(), model.program, list(model.feeds), list(model.fetches))
        return as_metric(value, 'eval_function')

    def _folder(self) -> None:
        try:
            self.save_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f'cannot write to {self.save_dir}: {error}') from error

    def _write(self, name: str, text: str) -> None:
        self._folder()
        try:
            atomic_write(self.save_dir / name, text)
        except OSError as error:
            raise CheckpointError(f'cannot write {self.save_dir / name}: {error}') from error


def _name_of(function: Callable[..., Any] | None) -> str:
    return 'cosine' if function is None else str(getattr(function, '__qualname__', type(function).__qualname__))
