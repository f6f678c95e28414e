"""Outputs of operators that gradients read, and that legacy inference programs have lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper

__all__ = ['STATISTICS', 'add_gradient_outputs']

#: Slots of batch norm for its moving statistics.
STATISTICS: Final = ('Mean', 'Variance')
# By slot: the element type, None for that of the input; the shape is that of the input, of a vector of its channels, or
# of the input behind an axis of length 0.
_SHAPES = ('reshape2', 'flatten_contiguous_range', 'flatten2', 'squeeze2', 'unsqueeze2', 'transpose2')
_LACKING: Final[Mapping[str, Mapping[str, tuple[str | None, str]]]] = {
    **dict.fromkeys(_SHAPES, {'XShape': (None, 'behind')}),
    'dropout': {'Mask': ('uint8', 'same')},
    'batch_norm': {
        'SavedMean': ('float32', 'channels'),
        'SavedVariance': ('float32', 'channels'),
        'ReserveSpace': (None, 'channels'),
    },
}


def add_gradient_outputs(program: Any) -> None:
    """Give the operators of a legacy program the outputs that their gradients read, in place."""
    for op in GraphWrapper(program).ops():
        _add_outputs(program, op)


def _add_outputs(program: Any, op: OpWrapper) -> None:
    for slot, (dtype, kind) in _LACKING.get(op.type(), {}).items():
        if _has_output(op, slot):
            continue
        (source,) = op.inputs('X')
        shape = source.shape()
        wanted = {'same': shape, 'behind': (0, *shape), 'channels': shape[1:2]}[kind]
        if op.type() == 'batch_norm' and op.attr('data_layout') == 'NHWC':
            wanted = shape[-1:]
        name = f'{op.all_outputs()[0].name()}.{slot.lower()}'
        program.global_block().create_var(
            name=name, shape=list(wanted), dtype=dtype or source.dtype(), persistable=False, stop_gradient=True
        )
        op.raw.desc.set_output(slot, [name])
    if op.type() == 'batch_norm':
        for slot in STATISTICS:
            if not _has_output(op, f'{slot}Out'):
                op.raw.desc.set_output(f'{slot}Out', [var.name() for var in op.inputs(slot)])


def _has_output(op: OpWrapper, slot: str) -> bool:
    return slot in op.raw.desc.output_names() and bool(op.raw.desc.output(slot))
