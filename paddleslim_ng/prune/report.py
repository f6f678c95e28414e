"""What a call to ``prune`` did, and what it could not do."""

from __future__ import annotations

from dataclasses import dataclass, field

from paddleslim_ng.prune.selection import Skipped

__all__ = ['EquivalenceFigures', 'ParameterReport', 'PruneReport']


@dataclass(frozen=True)
class EquivalenceFigures:
    """How far the pruned program is from the original with the same channels zeroed.

    Attributes:
        outputs: names of the compared outputs.
        max_absolute: largest absolute difference over all of them.
        max_relative: largest difference relative to the largest magnitude of that output.
        effect: how much zeroing changed the outputs, on the same relative scale; 0 means the check had no power.
    """

    outputs: tuple[str, ...]
    max_absolute: float
    max_relative: float
    effect: float

    def __str__(self) -> str:
        return (
            f'pruned equals masked on {len(self.outputs)} outputs: max difference {self.max_absolute:.3g}, relative '
            f'{self.max_relative:.3g} (zeroing changed them by {self.effect:.3g})'
        )


@dataclass(frozen=True)
class ParameterReport:
    """Request and result for one parameter.

    Attributes:
        name: parameter.
        ratio: share asked for.
        channels: channels before.
        removed: channels removed.
    """

    name: str
    ratio: float
    channels: int
    removed: int

    def __str__(self) -> str:
        return f'{self.name}: {self.channels} -> {self.channels - self.removed} channels (asked for {self.ratio:.4g})'


@dataclass
class PruneReport:
    """Result of one pruning call.

    Attributes:
        pruned: one entry for each parameter that was considered.
        skipped: parameters that could not be pruned, with the obstacles.
        notes: sentences about requests that could not be met exactly as asked.
        equivalence: figures of the check, or None where it was not run.
    """

    pruned: list[ParameterReport] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    equivalence: EquivalenceFigures | None = None

    def __str__(self) -> str:
        lines = [str(entry) for entry in self.pruned]
        lines += [f'{entry.name}: not pruned: {"; ".join(entry.reasons)}' for entry in self.skipped]
        lines += self.notes
        lines += [str(self.equivalence)] if self.equivalence else []
        return '\n'.join(lines)
