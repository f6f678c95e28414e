"""What ``paddleslim-ng prune`` says: a table, an object for machines, and the content of the HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paddleslim_ng.analysis import Report
    from paddleslim_ng.analysis.flops import LayerCost
    from paddleslim_ng.deploy import Measurement
    from paddleslim_ng.prune import PruneReport

__all__ = ['ModelState', 'Pruned', 'state_of']


@dataclass(frozen=True)
class ModelState:
    """One model, before or after.

    Attributes:
        label: its name in tables.
        parameters: elements of all parameters.
        file_bytes: size of its files.
        metric: that of the command, or None without data.
        layers: what costs something; empty where that cannot be counted.
        obstacle: why not.
    """

    label: str
    parameters: int
    file_bytes: int
    metric: float | None = None
    layers: Sequence[LayerCost] = ()
    obstacle: str = ''

    @property
    def flops(self) -> int | None:
        """Multiply-accumulates of one sample, or None."""
        return None if self.obstacle else sum(row.macs for row in self.layers)


def state_of(
    label: str, program: Any, shapes: Mapping[str, Sequence[int]], file_bytes: int, metric: float | None
) -> ModelState:
    """Count what a program consists of."""
    from paddleslim_ng.analysis import layer_costs, model_size
    from paddleslim_ng.errors import GraphError, UnsupportedOpError

    layers: Sequence[LayerCost] = ()
    obstacle = ''
    try:
        layers = layer_costs(program, input_shapes=shapes or None)
    except (GraphError, UnsupportedOpError) as error:
        obstacle = f'the FLOPs are not counted: {error}'
    return ModelState(label, model_size(program), file_bytes, metric, layers, obstacle)


@dataclass(frozen=True)
class Pruned:
    """What was done.

    Attributes:
        title: name of the model.
        before: the model.
        after: the result.
        metric: name of the metric, or nothing.
        ratios: share of the channels asked for, by parameter.
        notes: about the decision.
        done: what the pruner did, with the proof.
        program_file: of the result.
        sensitivities: what the decision was based on.
        loss: tolerated loss, where the ratios were chosen by one.
        measured: latencies, where they were asked for.
    """

    title: str
    before: ModelState
    after: ModelState
    metric: str
    ratios: Mapping[str, float]
    notes: Sequence[str]
    done: PruneReport
    program_file: Path
    sensitivities: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    loss: float | None = None
    measured: Measurement | None = None

    @property
    def all_notes(self) -> list[str]:
        """What to know about the decision and the figures."""
        skipped = [f'{entry.name}: not pruned: {"; ".join(entry.reasons)}' for entry in self.done.skipped]
        obstacles = dict.fromkeys(state.obstacle for state in (self.before, self.after) if state.obstacle)
        return [*skipped, *self.done.notes, *self.notes, *obstacles]

    def text(self) -> str:
        """Return everything for people."""
        parts = ['\n'.join(map(str, self.done.pruned)), self._table(), '\n'.join(self.all_notes)]
        parts += [str(self.done.equivalence)] if self.done.equivalence else []
        parts += [str(self.measured)] if self.measured else []
        return '\n\n'.join(part for part in parts if part)

    def _figures(self) -> list[tuple[str, float | None, float | None]]:
        rows: list[tuple[str, float | None, float | None]] = [
            ('FLOPs', self.before.flops, self.after.flops),
            ('parameters', self.before.parameters, self.after.parameters),
            ('bytes', self.before.file_bytes, self.after.file_bytes),
        ]
        return rows + ([(self.metric, self.before.metric, self.after.metric)] if self.metric else [])

    def _table(self) -> str:
        lines = [f'{"":12}{self.before.label:>16}{self.after.label:>16}']
        for name, before, after in self._figures():
            if before is None or after is None:
                continue
            change = f'{after / before - 1:+10.1%}' if before and name != self.metric else ''
            lines.append(f'{name:12}{_number(before):>16}{_number(after):>16}{change}')
        return '\n'.join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return everything for machines."""
        models = {
            state.label: {
                'flops': state.flops,
                'parameters': state.parameters,
                'bytes': state.file_bytes,
                **({self.metric: state.metric} if self.metric else {}),
            }
            for state in (self.before, self.after)
        }
        return {
            'file': str(self.program_file),
            **models,
            'ratios': dict(self.ratios),
            'channels': {one.name: [one.channels, one.channels - one.removed] for one in self.done.pruned},
            'equivalence': asdict(self.done.equivalence) if self.done.equivalence else None,
            'notes': self.all_notes,
            **({'measured': self.measured.as_dict()} if self.measured else {}),
        }

    def report(self) -> Report:
        """Return the content of the HTML report."""
        import paddle

        from paddleslim_ng.analysis import ModelFigures, Report
        from paddleslim_ng.version import __version__

        proof = self.done.equivalence
        figures = [
            ModelFigures(
                state.label,
                state.metric if self.metric == 'top1' else None,
                state.flops,
                state.parameters,
                state.file_bytes,
                self.measured.row(state.label, 'plain').latency if self.measured else None,
            )
            for state in (self.before, self.after)
        ]
        agreement = (
            [f'agreement with the outputs of the original: {self.after.metric:.4f}']
            if (self.metric == 'agreement')
            else []
        )
        return Report(
            f'{self.title}, pruned',
            figures,
            {
                'largest absolute difference': proof.max_absolute,
                'largest relative difference': proof.max_relative,
                'relative effect of the channels': proof.effect,
            }
            if proof
            else {},
            self.before.layers,
            self.after.layers,
            self.sensitivities,
            self.loss,
            self.ratios,
            [self.measured.report_table()] if self.measured else [],
            [*agreement, *self.all_notes],
            {'Paddle': paddle.__version__, 'paddleslim-ng': __version__},
        )


def _number(value: float) -> str:
    return f'{value:.4f}' if isinstance(value, float) else f'{value:,}'
