"""``paddleslim-ng prune``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleslim_ng.cli.evaluation_argument import EvaluationData, Metric, metric_for, read_evaluation_data
from paddleslim_ng.cli.model_argument import feeds_for, find_files, load_model, read_shapes
from paddleslim_ng.cli.program import Outcome
from paddleslim_ng.cli.prune_ratios import Decision, check_amount, decide_ratios
from paddleslim_ng.cli.prune_report import Pruned, state_of
from paddleslim_ng.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from paddleslim_ng.deploy import Measurement
    from paddleslim_ng.prune import PruneReport
    from paddleslim_ng.runtime import InferenceModel, SavedModel

__all__ = ['run']

_BATCH, _REPEATS = 4, 50


def run(arguments: argparse.Namespace) -> Outcome:
    """Prune a model, prove and save the result, and say what it came to."""
    _check(arguments)
    shapes, data = read_shapes(arguments.shape), read_evaluation_data(arguments)
    report_file = _report_file(arguments)
    from paddleslim_ng.analysis import write_report

    model = load_model(arguments.model, arguments)
    job = _Job(arguments, model, data, shapes)
    pruned = job.run()
    write_report(report_file, pruned.report())
    return Outcome(
        f'{pruned.text()}\n\nwritten: {pruned.program_file} and {report_file}',
        {**pruned.as_dict(), 'report': str(report_file)},
    )


def _check(arguments: argparse.Namespace) -> None:
    """Refuse arguments of no use before anything is run."""
    check_amount(arguments)
    if arguments.repeats is not None and not arguments.measure:
        raise ConfigError('--repeats belongs to --measure')
    if arguments.repeats is not None and arguments.repeats < 1:
        raise ConfigError(f'--repeats must be at least 1, not {arguments.repeats}')


def _report_file(arguments: argparse.Namespace) -> Path:
    """Return the file of the report; refuse to write over the model."""
    output = Path(arguments.output)
    if output.resolve() == find_files(arguments.model, arguments).program.with_suffix('').resolve():
        raise ConfigError(f'--output {arguments.output} is the model itself: save under another name')
    if arguments.report is None:
        return output.with_name(output.name + '.html')
    if not Path(arguments.report).parent.is_dir():
        raise ConfigError(f'the folder of --report {arguments.report} is missing')
    return Path(arguments.report)


class _Job:
    """Prunes one model; its program is left as it was, its scope is cut."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        model: InferenceModel,
        data: EvaluationData,
        shapes: Mapping[str, Sequence[int]],
    ) -> None:
        from paddleslim_ng.core import GraphWrapper
        from paddleslim_ng.prune import merge_sensitive

        self._arguments, self._model, self._shapes = arguments, model, shapes
        self._fetches = [GraphWrapper.name_of(item) for item in model.fetches]
        self._sensitivities = merge_sensitive(arguments.sensitivities) if arguments.sensitivities else {}
        self._decision = self._decide()
        self._metric: Metric | None = metric_for(arguments, model, data, shapes) if arguments.data else None
        self._feed: dict[str, npt.NDArray[Any]] = (
            self._metric.feed if self._metric is not None else feeds_for([model], None, _BATCH, shapes)
        )

    def _decide(self) -> Decision:
        from paddleslim_ng.prune import PruningSession
        from paddleslim_ng.prune.sensitive import measured_otherwise

        arguments, model = self._arguments, self._model
        session = PruningSession(
            model.program, model.scope, arguments.criterion, round_to=arguments.round_to, outputs=self._fetches
        )
        decision = decide_ratios(arguments, session, self._sensitivities, self._shapes)
        changed = [
            note
            for file in arguments.sensitivities
            for note in measured_otherwise(file, model.program, model.scope, arguments.criterion)
        ]
        return decision._replace(notes=[*changed, *decision.notes])

    def run(self) -> Pruned:
        """Prune, prove, save and, where it is asked for, time."""
        files = find_files(self._arguments.model, self._arguments)
        size = files.program.stat().st_size + _size_of(files.parameters)
        before = state_of('original', self._model.program, self._shapes, size, self._value(self._model.program))
        program, done = self._prune()
        value = self._value(program)
        saved = self._save(program)
        after = state_of('pruned', program, self._shapes, saved.file_bytes, value)
        return Pruned(
            title=Path(self._arguments.model).name,
            before=before,
            after=after,
            metric=self._metric.name if self._metric is not None else '',
            ratios=self._decision.ratios,
            notes=self._decision.notes,
            done=done,
            program_file=saved.program_file,
            sensitivities=self._sensitivities,
            loss=self._arguments.loss,
            measured=self._measure(saved),
        )

    def _value(self, program: Any) -> float | None:
        return self._metric.measure(program, self._model.scope) if self._metric is not None else None

    def _prune(self) -> tuple[Any, PruneReport]:
        from paddleslim_ng.prune import Pruner

        pruner = Pruner(self._arguments.criterion, round_to=self._arguments.round_to)
        program, _, _ = pruner.prune(
            self._model.program,
            self._model.scope,
            self._decision.ratios.keys(),
            self._decision.ratios.values(),
            verify=True,
            feeds=self._feed,
            outputs=self._fetches,
        )
        if not any(entry.removed for entry in pruner.report.pruned):
            raise ConfigError(
                f'nothing would leave: the shares are less than one channel, or than half of --round-to '
                f'{self._arguments.round_to}'
            )
        return program, pruner.report

    def _save(self, program: Any) -> SavedModel:
        from paddleslim_ng.runtime import save_inference_model

        arguments, model = self._arguments, self._model
        return save_inference_model(
            program,
            arguments.output,
            model.feeds,
            self._fetches,
            model.scope,
            format=arguments.format,
            feed=self._feed,
        )

    def _measure(self, saved: SavedModel) -> Measurement | None:
        """Time the result beside the model, on the first batch."""
        from paddleslim_ng.deploy import measure
        from paddleslim_ng.runtime.model_files import ModelFiles

        arguments = self._arguments
        if not arguments.measure:
            return None
        return measure(
            {'pruned': ModelFiles(saved.program_file, saved.parameter_file)},
            self._feed,
            original=find_files(arguments.model, arguments),
            repeats=arguments.repeats or _REPEATS,
            interpreter=arguments.interpreter,
        )


def _size_of(parameters: Path) -> int:
    """Return the bytes of a file, or of the files of a folder."""
    if parameters.is_dir():
        return sum(path.stat().st_size for path in parameters.iterdir() if path.is_file())
    return parameters.stat().st_size
