"""What strategies did to the programs of a job, in order, so that a resumed job can do it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ['JournalEntry', 'pack_journal', 'unpack_journal']


@dataclass(frozen=True)
class JournalEntry:
    """One change to the programs.

    Attributes:
        strategy: name of the strategy that made it.
        epoch_id: when.
        note: what the strategy wants to know when it makes the change again: plain values and arrays.
    """

    strategy: str
    epoch_id: int
    note: Mapping[str, Any] = field(default_factory=dict)


def pack_journal(entries: Iterable[JournalEntry]) -> list[dict[str, Any]]:
    """Return entries as plain values."""
    return [{'strategy': e.strategy, 'epoch_id': e.epoch_id, 'note': dict(e.note)} for e in entries]


def unpack_journal(packed: Iterable[Mapping[str, Any]]) -> list[JournalEntry]:
    """Return what :func:`pack_journal` was given."""
    return [JournalEntry(str(e['strategy']), int(e['epoch_id']), dict(e['note'])) for e in packed]
