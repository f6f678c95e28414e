"""The verbs by which a program of either IR is read and edited.

:class:`Editor` is the interface; :mod:`legacy_editor`, and :mod:`pir_reader` with :mod:`pir_editor`, implement it.
Misuse of PIR's bindings ends the process, so every verb checks its preconditions in Python first and raises
:class:`GraphError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.errors import GraphError, UnsupportedOpError

if TYPE_CHECKING:
    from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper

__all__ = ['Editor', 'arriving_gradient', 'editor_for', 'single_grad_op']


class Editor(ABC):
    """Reads and edits one program; subclasses know one IR."""

    ir: str = ''

    def __init__(self, program: Any) -> None:
        self.program = program

    @abstractmethod
    def index(self, graph: GraphWrapper) -> None:
        """Fill ``graph`` with wrappers of the main block's operators and variables."""

    @abstractmethod
    def variable_name(self, var: VarWrapper) -> str:
        """Return the (stable) name of ``var``."""

    @abstractmethod
    def shape(self, var: VarWrapper) -> tuple[int, ...]:
        """Return the static shape of ``var``."""

    @abstractmethod
    def set_shape(self, var: VarWrapper, shape: tuple[int, ...]) -> None:
        """Change the static shape of ``var``."""

    @abstractmethod
    def dtype(self, var: VarWrapper) -> str:
        """Return the element type of ``var`` in numpy's spelling."""

    @abstractmethod
    def is_parameter(self, var: VarWrapper) -> bool:
        """Tell whether ``var`` is a parameter."""

    @abstractmethod
    def persistable(self, var: VarWrapper) -> bool:
        """Tell whether ``var`` outlives a run."""

    @abstractmethod
    def parameters(self, graph: GraphWrapper) -> list[VarWrapper]:
        """Return the parameters in program order."""

    @abstractmethod
    def attr(self, op: OpWrapper, name: str) -> Any:
        """Return a canonical attribute or None."""

    @abstractmethod
    def set_attr(self, op: OpWrapper, name: str, value: Any) -> None:
        """Change a canonical attribute, of the operator itself or of the constant operand that carries it."""

    @abstractmethod
    def role(self, op: OpWrapper) -> int:
        """Return 0 for a forward operator, else ``BACKWARD_ROLE`` or ``OPTIMIZE_ROLE``."""

    @abstractmethod
    def grad_ops(self, op: OpWrapper) -> list[OpWrapper]:
        """Return the gradient operators of a forward operator."""

    @abstractmethod
    def infer_shape(self, graph: GraphWrapper) -> None:
        """Recompute intermediate static shapes where the IR can.

        Raises:
            GraphError: shapes do not fit together; the message names the operator.
        """

    @abstractmethod
    def split_into(self, op: OpWrapper, sections: Sequence[int]) -> None:
        """Turn a ``split`` by count or sections into one with the given section sizes.

        Raises:
            GraphError: ``op`` is no split, or has another number of parts.
        """

    @staticmethod
    def _check_split(op: OpWrapper, sizes: Sequence[int]) -> None:
        if op.type() != 'split' or len(op.all_outputs()) != len(sizes):
            raise GraphError(f'{op!r} cannot become a split into {list(sizes)}')

    @abstractmethod
    def scale_after(self, var: VarWrapper, factor: float) -> None:
        """Multiply ``var`` by ``factor`` for all its present readers, those inside control flow included.

        The product takes over the name of ``var``, so that fetching by name gives the scaled value; what its operator
        makes is called ``<name>.unscaled`` from then on. In a training program the gradient that arrives at ``var`` is
        multiplied, too. Wrap the program anew afterwards.

        Raises:
            GraphError: no operator makes ``var``.
            UnsupportedOpError: the program has a backward pass in which the gradient of ``var`` cannot be told.
        """

    @abstractmethod
    def feed_constant(
        self, op: OpWrapper, slot: str, values: npt.NDArray[np.int64], gradients: Sequence[OpWrapper] = ()
    ) -> None:
        """Let ``op`` read a constant of integers through ``slot`` in place of the variable there.

        Args:
            op: reader.
            slot: an input slot with one variable.
            values: the new constant, of any shape.
            gradients: gradient operators of ``op``, which read the same variable.

        Raises:
            GraphError: ``slot`` does not hold exactly one variable.
        """

    @abstractmethod
    def pick_before(
        self,
        op: OpWrapper,
        slot: str,
        axis: int,
        size: int,
        positions: Sequence[int],
        gradients: Sequence[OpWrapper] = (),
    ) -> None:
        """Let ``op`` read only some positions along an axis of the variable in ``slot``.

        Gradient operators read the same, and what they return is spread over all positions again, with zeros at those
        that were not picked.

        Args:
            op: reader.
            slot: an input slot with one variable.
            axis: axis of that variable.
            size: length of that axis.
            positions: what is picked, in this order, each at most once.
            gradients: gradient operators of ``op``.

        Raises:
            GraphError: ``slot`` does not hold exactly one variable, or a position is outside the axis or given twice.
        """

    @staticmethod
    def _check_pick(op: OpWrapper, slot: str, axis: int, size: int, positions: Sequence[int]) -> VarWrapper:
        var = Editor._only(op, slot)
        if len(set(positions)) != len(positions) or any(not 0 <= position < size for position in positions):
            raise GraphError(f'cannot pick {list(positions)} of {size} positions along axis {axis} of {var.name()!r}')
        return var

    @staticmethod
    def _only(op: OpWrapper, slot: str) -> VarWrapper:
        group = op.inputs(slot)
        if len(group) != 1:
            raise GraphError(f'{op.type()} reads {len(group)} variables through {slot!r}, not one')
        return group[0]

    @staticmethod
    def _spread(positions: Sequence[int], size: int) -> list[int]:
        """Return where each of ``size`` positions is found among the picked ones, with a zero behind them."""
        places = [len(positions)] * size
        for place, position in enumerate(positions):
            places[position] = place
        return places

    @abstractmethod
    def remove(self, op: OpWrapper) -> None:
        """Remove an operator none of whose results is read.

        Raises:
            GraphError: a result is still read.
        """


def single_grad_op(editor: Editor, var: VarWrapper, stops_gradient: bool) -> OpWrapper | None:
    """Return the gradient operator of the one that makes ``var``; None where no gradient reaches ``var``.

    Raises:
        UnsupportedOpError: there is a backward pass, and the operator is not to be told.
    """
    found = editor.grad_ops(var._producers[0]) if len(var._producers) == 1 else []
    # Nobody reads the loss of a legacy program: its gradient is a constant.
    if stops_gradient or not (found or _backward_depends_on(var)):
        return None
    if len(found) != 1:
        raise UnsupportedOpError(
            f'cannot scale {var.name()!r} in a program with a backward pass: {len(found)} gradient operators belong to '
            f'{[op.type() for op in var._producers]}; edit the program before append_backward or minimize',
            op=var._producers[0].type() if var._producers else '',
            variable=var.name(),
        )
    return found[0]


def arriving_gradient(grad: OpWrapper, var: VarWrapper) -> VarWrapper:
    """Return the gradient of ``var`` that the gradient operator of its maker reads.

    Raises:
        UnsupportedOpError: it reads none.
    """
    for slot, group in var._producers[0]._outs.items():
        for position, member in enumerate(group):
            if member is var and len(grad._ins.get(slot + '@GRAD', ())) > position:
                return grad._ins[slot + '@GRAD'][position]
    raise UnsupportedOpError(
        f'cannot scale {var.name()!r} in a program with a backward pass: {grad.type()} does not take its gradient',
        op=grad.type(),
        variable=var.name(),
    )


def _backward_depends_on(var: VarWrapper) -> bool:
    """Tell whether a backward operator reads ``var`` or anything computed from it."""
    pending, seen = [var], {id(var)}
    while pending:
        for reader in pending.pop()._consumers:
            if reader.is_bwd_op():
                return True
            for out in reader.all_outputs():
                if id(out) not in seen and not reader.is_opt_op():
                    seen.add(id(out))
                    pending.append(out)
    return False


def editor_for(program: Any) -> Editor:
    """Return the editor for ``program``'s IR.

    Raises:
        GraphError: ``program`` is not a Paddle program.
    """
    from paddleslim_ng.core.legacy_editor import LegacyEditor
    from paddleslim_ng.core.pir_editor import PirEditor

    paddle_compat.self_test()
    if paddle_compat.is_pir_program(program):
        if not paddle_compat.has_pir():
            raise GraphError('PIR is unfinished in Paddle 2; unset FLAGS_enable_pir_api, or use Paddle 3')
        return PirEditor(program)
    if paddle_compat.is_legacy_program(program):
        return LegacyEditor(program)
    raise GraphError(
        f'expected a paddle.static.Program of either IR, got {type(program).__name__}; '
        'pass the program itself (for a CompiledProgram: the program it was made from)'
    )
