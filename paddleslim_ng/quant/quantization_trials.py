"""Trials of options of post-training quantization: quantize, measure the distance, keep the best on disk."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import EquivalenceError
from paddleslim_ng.quant.bias_correction import correct_biases
from paddleslim_ng.quant.building import spec_from_thresholds
from paddleslim_ng.quant.export import ExportedModel, export_quantized
from paddleslim_ng.quant.observers import threshold
from paddleslim_ng.quant.search_space import SearchSpace
from paddleslim_ng.quant.simulate import simulate
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.quant.targets import Targets
from paddleslim_ng.quant.trial_data import SharedCalibration, StoredFeeds, joined_feeds
from paddleslim_ng.quant.trial_log import Trial, TrialLog
from paddleslim_ng.runtime import InferenceModel

__all__ = ['QuantizationTrials', 'SearchedModel', 'TrialRequest']

_log = logging.getLogger('paddleslim_ng')


@dataclass(frozen=True)
class SearchedModel:
    """What :func:`quant_post_hpo` found.

    Attributes:
        best: the options that were taken, and the distance from the float model.
        trials: all of them, in their order.
        spec: the quantization.
        model: the float model that was quantized, with batch norms folded and biases corrected where that was taken.
        exported: the files and how they were checked.
        log: the file with the trials.
        calibrated: how many samples (or batches of a loader) calibration ran, all trials together.
    """

    best: Trial
    trials: tuple[Trial, ...]
    spec: QuantizationSpec
    model: InferenceModel
    exported: ExportedModel
    log: Path
    calibrated: int

    def __str__(self) -> str:
        """Report in words."""
        chosen = ', '.join(f'{name}={value!r}' for name, value in self.best.options.items())
        failed = [trial for trial in self.trials if trial.reason]
        lines = [
            f'{len(self.trials)} trials in {sum(trial.seconds for trial in self.trials):.1f} s; {self.calibrated} '
            'samples or batches calibrated',
            f'taken: {chosen}; distance from float {self.best.loss:.4g}',
            *(f'failed: {dict(trial.options)}: {trial.reason}' for trial in failed),
            str(self.exported),
        ]
        return '\n'.join(lines)


class TrialRequest(NamedTuple):
    """What is the same in all trials.

    Attributes:
        types: of operators, all where None.
        full: quantize operators without weights, too.
        weight_bits: width of the integers of weights.
        activation_bits: width of the integers of activations.
        format: of the files.
        samples: whether data comes as samples, which batches are made of.
    """

    types: list[str] | None
    full: bool
    weight_bits: int
    activation_bits: int
    format: str
    samples: bool


class _Made(NamedTuple):
    model: InferenceModel
    spec: QuantizationSpec


@dataclass
class QuantizationTrials:
    """Tries options, and keeps the best model on disk.

    Attributes:
        part: the float model.
        targets: what is quantized in it.
        feeds: calibration data.
        calibration: statistics of it.
        distance: how far a model is from the float model.
        request: what is the same in all trials.
        place: device; the CPU where None.
        prefix: path without suffix of the files.
        log: trials so far.
    """

    part: InferenceModel
    targets: Targets
    feeds: StoredFeeds
    calibration: SharedCalibration
    distance: Callable[[InferenceModel], float]
    request: TrialRequest
    place: Any
    prefix: Path
    log: TrialLog

    def run(self, space: SearchSpace, seed: int, runs: int, seconds: float | None) -> SearchedModel:
        """Try options until there are so many trials, or they took so many seconds, and return the best model.

        Raises:
            EquivalenceError: no trial succeeded.
            DataError: data that cannot be used.
        """
        sampler = space.sampler(seed, self.log.trials)
        written: tuple[Trial, _Made, ExportedModel] | None = None
        while len(self.log.trials) < runs:
            if self.log.trials and seconds is not None and self.log.seconds >= seconds:
                break
            pending, options = sampler.ask()
            trial, made, exported = self._try(options)
            sampler.tell(pending, trial.loss)
            if made is not None and exported is not None:
                written = (trial, made, exported)
            self.log.trials.append(trial)
            self.log.save()
            _log.info('trial %d: %s: %.6g %s', len(self.log.trials), options, trial.loss, trial.reason)
        best = self.log.best
        if best is None:
            raise EquivalenceError(f'none of {len(self.log.trials)} trials succeeded: {self.log.trials[-1].reason}')
        if written is None or written[0] is not best:  # of a search that was interrupted
            made = self._make(best.options)
            written = (best, made, self._export(made))
        return SearchedModel(
            best,
            tuple(self.log.trials),
            written[1].spec,
            written[1].model,
            written[2],
            self.log.path,
            self.calibration.units_run,
        )

    def _try(self, options: dict[str, Any]) -> tuple[Trial, _Made | None, ExportedModel | None]:
        """Quantize with some options and, where that is the best so far, write the files."""
        start = time.monotonic()
        loss, reason, best = math.inf, '', self.log.best
        made = exported = None
        known = next((trial for trial in self.log.trials if dict(trial.options) == options), None)
        if known is not None:
            return Trial(options, known.loss, time.monotonic() - start, known.reason), None, None
        try:
            made = self._make(options)
            simulated = simulate(made.model.program, made.spec, made.model.scope)
            graph = GraphWrapper(simulated.program)
            outputs = [graph.var(GraphWrapper.name_of(item)).raw for item in made.model.fetches]
            loss = self.distance(InferenceModel(simulated.program, made.model.feeds, outputs, simulated.scope))
            if best is None or loss < best.loss:
                exported = self._export(made)
        except EquivalenceError as error:
            loss, reason = math.inf, str(error)
        return Trial(options, loss, time.monotonic() - start, reason), made, exported

    def _make(self, options: Any) -> _Made:
        size = int(options['batch_size']) if self.request.samples else 1
        count = size * int(options['batch_num'])
        seen = self.calibration.statistics(count)
        limits = {
            name: threshold(
                seen[name],
                options['algo'],
                bits=self.request.activation_bits,
                percentile=options.get('hist_percent', 0.9999),
            )
            for name in self.targets.activations
        }
        spec = spec_from_thresholds(
            self.part.program,
            limits,
            scope=self.part.scope,
            weight_bits=self.request.weight_bits,
            activation_bits=self.request.activation_bits,
            weight_quantize_type=options['weight_quantize_type'],
            quantizable_op_type=self.request.types,
            is_full_quantize=self.request.full,
        )
        if not options['bias_correct']:
            return _Made(self.part, spec)
        batches = joined_feeds(self.feeds.first(count), size)
        corrected = correct_biases(self.part, spec, batches, place=self.place)
        if corrected.error_after < corrected.error_before:
            return _Made(corrected.model, corrected.spec)
        return _Made(self.part, spec)

    def _export(self, made: _Made) -> ExportedModel:
        program, names, fetches, scope = made.model
        (unit,) = self.feeds.first(1)
        exported = export_quantized(
            program, made.spec, self.prefix, names, fetches, scope, format=self.request.format, feed=unit
        )
        made.spec.save(self.prefix.with_name(f'{self.prefix.name}.quantization.json'))
        return exported
