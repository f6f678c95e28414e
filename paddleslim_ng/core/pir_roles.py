"""Which operators of a PIR program belong to the backward pass or to the optimizer, which Paddle does not record."""

from __future__ import annotations

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import OpWrapper, VarWrapper
from paddleslim_ng.core.marks import ROLE, mark_of
from paddleslim_ng.core.op_table import OPTIMIZER_OPS
from paddleslim_ng.core.paddle_compat import BACKWARD_ROLE, OPTIMIZE_ROLE

__all__ = ['find_roles']


def find_roles(ops: list[OpWrapper]) -> dict[int, int]:
    """Classify operators by position.

    Optimizer updates are known by type, gradients by name, and what this package built by its mark. What else reads a
    gradient belongs to the backward pass up to the last gradient operator and to the optimizer after it (clipping,
    regularization, loss scaling), and so does what reads optimizer state or feeds nothing else.

    Args:
        ops: all operators of the main block in program order.

    Returns:
        ``{position: role}`` of the operators that are not forward.
    """
    last_grad = max((op._idx for op in ops if op._type.endswith('_grad')), default=-1)
    last_update = max((op._idx for op in ops if op._type in OPTIMIZER_OPS), default=-1)
    marked = {op._idx: int(role) for op in ops if (role := mark_of(op, ROLE)) is not None}
    roles = dict(marked)
    for op in ops:
        if op._idx in marked:
            continue
        if op._type in OPTIMIZER_OPS or -1 < last_grad < op._idx < last_update:
            roles[op._idx] = OPTIMIZE_ROLE
        elif op._type.endswith('_grad'):
            roles[op._idx] = BACKWARD_ROLE
        elif _reads_from(op, roles):
            roles[op._idx] = BACKWARD_ROLE if op._idx < last_grad else OPTIMIZE_ROLE
    if last_update >= 0:
        _add_state_keepers(ops, roles, last_update)
        _add_rewrites(ops, roles, last_update)
    first = min((index for index in roles if index not in marked), default=None)
    if first is not None:
        _add_feeders(ops, roles, first, last_grad)
    return roles


def _reads_from(op: OpWrapper, roles: dict[int, int]) -> bool:
    return any(maker._idx in roles for var in op.all_inputs() for maker in var._producers)


def _add_state_keepers(ops: list[OpWrapper], roles: dict[int, int], last_update: int) -> None:
    """Add what follows the last update and reads what only optimizers keep, such as counters and running powers."""
    state = {id(var) for op in ops if roles.get(op._idx) == OPTIMIZE_ROLE for var in op.all_inputs() if _is_state(var)}
    for op in ops[last_update + 1 :]:
        if op._idx not in roles and (_reads_from(op, roles) or any(id(var) in state for var in op.all_inputs())):
            roles[op._idx] = OPTIMIZE_ROLE


def _add_rewrites(ops: list[OpWrapper], roles: dict[int, int], last_update: int) -> None:
    """Add what follows the last update and ends in a write to parameters or state, as the averages of LookAhead do."""
    writers: set[int] = set()
    for op in reversed(ops[last_update + 1 :]):
        sources = op.raw.operands_source()
        written = [sources[index] for index in paddle_compat.inplace_operands(op.raw)]
        persistent = any(source.initialized() and source.persistable for source in written)
        if persistent or any(reader._idx in writers for var in op.all_outputs() for reader in var._consumers):
            writers.add(op._idx)
            roles.setdefault(op._idx, OPTIMIZE_ROLE)


def _is_state(var: VarWrapper) -> bool:
    return var.is_data and var.persistable()


def _add_feeders(ops: list[OpWrapper], roles: dict[int, int], first: int, last_grad: int) -> None:
    """Add what serves none but backward and optimizer operators, such as the initial gradient or a decayed weight."""
    for op in reversed(ops):
        if op._idx in roles or not (op._idx >= first or op._type in ('fill_constant', 'fill_any_like')):
            continue
        # The initial gradient only takes the shape of the loss: it does not make the loss part of the backward pass.
        readers = [c._idx for var in op.all_outputs() for c in var._consumers if c._type != 'fill_any_like']
        if readers and all(reader in roles for reader in readers) and not _is_differentiated(op):
            after = min(readers) > last_grad and op._idx > last_grad
            roles[op._idx] = OPTIMIZE_ROLE if after else BACKWARD_ROLE


def _is_differentiated(op: OpWrapper) -> bool:
    wanted = op._type + '_grad'
    return any(c._type == wanted for var in (*op.all_inputs(), *op.all_outputs()) for c in var._consumers)
