"""What the running Paddle declares of its legacy operators: slots, and attributes with their kinds."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from paddleslim_ng.core import paddle_compat

__all__ = ['AttributeDeclaration', 'OperatorDeclaration', 'SlotDeclaration', 'declaration_of']

_EVERY_OPERATOR = frozenset(
    {'op_role', 'op_role_var', 'op_namescope', 'op_callstack', 'op_device', 'with_quant_attr', 'op_dist_attr'}
)


@dataclass(frozen=True)
class SlotDeclaration:
    """An input or output slot.

    Attributes:
        name: as legacy programs spell it.
        many: it takes a list of variables.
        optional: it may stay empty.
        scratch: an output that only a backward pass reads.
    """

    name: str
    many: bool
    optional: bool
    scratch: bool = False


@dataclass(frozen=True)
class AttributeDeclaration:
    """An attribute.

    Attributes:
        name: as legacy programs spell it.
        kind: ``'INT'``, ``'INTS'``, ``'FLOAT'``, ``'STRING'``, ``'SCALARS'`` and so on.
        takes_variable: a variable may stand in the place of its value.
    """

    name: str
    kind: str
    takes_variable: bool


@dataclass(frozen=True)
class OperatorDeclaration:
    """A legacy operator as the running Paddle declares it."""

    type: str
    inputs: Mapping[str, SlotDeclaration]
    outputs: Mapping[str, SlotDeclaration]
    attributes: Mapping[str, AttributeDeclaration]

    def input(self, slot: str) -> SlotDeclaration | None:
        """Return the input slot of this canonical name; a few operators spell theirs in lower case."""
        return _find(self.inputs, slot)

    def output(self, slot: str) -> SlotDeclaration | None:
        """Return the output slot of this canonical name."""
        return _find(self.outputs, slot)


@functools.cache
def declaration_of(type: str) -> OperatorDeclaration | None:
    """Return what the running Paddle declares of a legacy operator, or None where it has no such operator."""
    proto = paddle_compat.operator_proto(type)
    if proto is None:
        return None
    attributes = {
        item.name: AttributeDeclaration(item.name, paddle_compat.attribute_kind(item.type), bool(item.support_tensor))
        for item in proto.attrs
        if item.name not in _EVERY_OPERATOR
    }
    return OperatorDeclaration(type, _slots(proto.inputs), _slots(proto.outputs), attributes)


def _slots(protos: Iterable[Any]) -> dict[str, SlotDeclaration]:
    return {
        item.name: SlotDeclaration(
            item.name, bool(item.duplicable), bool(item.dispensable), bool(item.intermediate or item.extra)
        )
        for item in protos
    }


def _find(slots: Mapping[str, SlotDeclaration], name: str) -> SlotDeclaration | None:
    if name in slots:
        return slots[name]
    wanted = _plain(name)
    return next((slot for key, slot in slots.items() if _plain(key) == wanted), None)


def _plain(name: str) -> str:
    return name.replace('_', '').lower()
