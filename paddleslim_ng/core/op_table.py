"""Where the vocabularies of Paddle's two IRs meet: lookups by PIR name in :mod:`paddleslim_ng.core.op_rows`.

The canonical vocabulary (operator types, slots, attributes) is that of legacy ProgramDesc programs, which Paddle's
users know. PIR names the same things differently, and passes many attributes as operands that a ``full`` or
``full_int_array`` operator defines.

An operator without a row is still visible: its type is the PIR name without dialect and trailing underscore, and slots
are CamelCase forms of the PIR names. Gradient operators need no rows: theirs follow from that of the forward operator.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddleslim_ng.core.op_rows import ROWS, OpRow

__all__ = ['OPTIMIZER_OPS', 'ROWS', 'OpRow', 'canonical_slot', 'canonical_type', 'grad_slot', 'row_for']

_DIALECT = 'pd_op.'
_GRAD = '_grad'

OPTIMIZER_OPS = frozenset(
    {
        'sgd',
        'momentum',
        'merged_momentum',
        'lars_momentum',
        'adagrad',
        'decayed_adagrad',
        'adadelta',
        'rmsprop',
        'adam',
        'merged_adam',
        'adamw',
        'adamax',
        'nadam',
        'radam',
        'lamb',
        'asgd',
        'rprop',
        'ftrl',
        'dpsgd',
        'average_accumulates',
    }
)


def canonical_type(pir_name: str) -> str:
    """Translate a PIR operator name (``'pd_op.conv2d'``, ``'pd_op.relu_'``) to the canonical type."""
    if not pir_name.startswith(_DIALECT):
        return pir_name
    short = pir_name[len(_DIALECT) :].rstrip('_')
    row = ROWS.get(short)
    if row is not None:
        return row.type
    if short.endswith(_GRAD) and short[: -len(_GRAD)] in ROWS:
        return ROWS[short[: -len(_GRAD)]].type + _GRAD
    return short


def row_for(pir_name: str) -> OpRow | None:
    """Return the row of a PIR operator, or None where the table has none."""
    return ROWS.get(pir_name[len(_DIALECT) :].rstrip('_')) if pir_name.startswith(_DIALECT) else None


def canonical_slot(name: str) -> str:
    """Derive a slot from an operand or result name: ``'saved_mean'`` -> ``'SavedMean'``."""
    return ''.join(part[:1].upper() + part[1:] for part in name.split('_'))


def grad_slot(name: str, forward: dict[str, str]) -> str:
    """Derive a slot of a gradient operator from a PIR name and the slots of the forward operator.

    Args:
        name: PIR name of an operand or result, such as ``'x'``, ``'out_grad'`` or ``'kernel_size'``.
        forward: ``{PIR name: canonical slot or @attribute}`` of the forward operator.

    Returns:
        The slot, such as ``'X'`` or ``'Out@GRAD'``; ``'@ksize'`` for operands that carry attributes.
    """
    if name in forward:
        return forward[name]
    if name.endswith(_GRAD):
        base = name[: -len(_GRAD)]
        return forward.get(base, canonical_slot(base)) + '@GRAD'
    return canonical_slot(name)


def check_slots(slots: Sequence[str]) -> bool:
    """Tell whether every entry is a slot or an ``@attribute`` reference (used by the table's own test)."""
    return all(slot and (slot[0] == '@' or slot[0].isalpha()) for slot in slots)
