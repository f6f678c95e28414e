"""What is noted on the operators of a quantized program, and how a specification is read back from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.marks import mark, mark_of
from paddleslim_ng.errors import GraphError
from paddleslim_ng.quant.straight_through import FAKE_QUANTIZER

__all__ = ['Record', 'Recorded', 'note', 'note_skipped', 'recorded', 'skipped_in']

_RECORD: Final = 'slim_quantization'
_SKIPPED: Final = 'slim_quantization_skipped'


@dataclass(frozen=True)
class Record:
    """The quantization of one tensor of a program.

    Attributes:
        tensor: its name.
        kind: ``'weight'`` or ``'activation'``.
        bits: width of the integers; None where no integers stand behind it (functions of the user's).
        axis: axis along which scales differ, or None.
        scale: name of the tensor in the scope that holds the scale; None where the largest magnitude gives it.
        count: name of the state that is 0 until a training step has updated the scale; None where no step has to.
    """

    tensor: str
    kind: str
    bits: int | None
    axis: int | None = None
    scale: str | None = None
    count: str | None = None


@dataclass(frozen=True)
class Recorded:
    """A quantized tensor in a program.

    Attributes:
        record: how it is quantized.
        source: the tensor.
        result: what its readers read instead.
        readers: those of the forward pass.
    """

    record: Record
    source: VarWrapper
    result: VarWrapper
    readers: tuple[OpWrapper, ...]


def note(op: Any, record: Record) -> None:
    """Note on the last operator of a fake quantizer (Paddle's) what it stands for."""
    mark(op, _RECORD, json.dumps(asdict(record)))


def note_skipped(op: Any, skipped: Mapping[str, str]) -> None:
    """Note on some operator of a quantized program (Paddle's) which operators stay in float, and why."""
    mark(op, _SKIPPED, json.dumps(dict(skipped)))


def recorded(graph: GraphWrapper) -> list[Recorded]:
    """Return the tensors of a program that are quantized in training, in program order.

    Raises:
        GraphError: a tensor that is quantized is not there any more.
    """
    found = []
    for op in graph.ops():
        text = mark_of(op, _RECORD)
        if text is None or op.is_bwd_op():  # legacy gradient operators inherit the notes of forward ones
            continue
        record = Record(**json.loads(text))
        if not graph.has_var(record.tensor):
            raise GraphError(f'the program quantizes {record.tensor!r}, which it does not have any more')
        result = op.all_outputs()[0]
        readers = [
            reader
            for reader in result.outputs()
            if not (reader.is_bwd_op() or reader.is_opt_op()) and mark_of(reader, FAKE_QUANTIZER) != record.tensor
        ]
        found.append(Recorded(record, graph.var(record.tensor), result, tuple(readers)))
    return found


def skipped_in(graph: GraphWrapper) -> dict[str, str]:
    """Return the operators of a quantized program that stay in float, by their first outputs, and why."""
    found: dict[str, str] = {}
    for op in graph.ops():
        text = mark_of(op, _SKIPPED)
        if text is not None:
            found.update(json.loads(text))
    return found
