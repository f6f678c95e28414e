"""Fake quantizers with gradients: how they are built into training programs, before or after the backward pass.

A fake quantizer ``y = f(x)`` computes in float what integers stand for. Where the program has no backward part yet,
differentiation finds the gradient; where it has one (PaddleSlim's users quantize after ``minimize``), the gradient
operators of what reads ``y`` are told to read it, too, and the gradient that they return for ``y`` is taken to ``x`` by
operators of the quantizer's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper, naming
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.marks import FAKE_QUANTIZER, mark, mark_of
from paddleslim_ng.errors import GraphError

__all__ = ['FAKE_QUANTIZER', 'FakeQuantizer', 'check_reads', 'quantize_reads', 'quantized_name', 'steps_to_grid']

# The largest float32 below one half: added to a magnitude, it carries halves over, and nothing that is less.
_BELOW_HALF = 0.4999999701976776


class FakeQuantizer(Protocol):
    """A quantizer with a gradient: ``y = f(x)``.

    Attributes:
        learns: whether it has parameters of its own that the gradient of ``y`` is needed for.
    """

    learns: bool

    def forward(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build ``f`` and return ``y``, which lies exactly on the grid.

        Differentiation of what is built here gives the right gradient. State is read and, in training, written within
        ``with e.here.role('optimizer')``, so that clones for test keep the reads and drop the writes.
        """

    def backward(self, e: Expressions, x: VarWrapper, y: VarWrapper, gradient: VarWrapper) -> VarWrapper:
        """Build the same gradient for a program whose backward part exists, and return that of ``x``.

        Called once for each gradient operator that returns a part of the gradient of ``y``; what the parts give for
        parameters of the quantizer's own is added up by the quantizer.
        """


class _Reader:
    """A reader of a tensor, and where its gradient operators return gradients for that tensor."""

    def __init__(self, op: OpWrapper, x: VarWrapper) -> None:
        self.op = op
        self.places = [
            (slot, place) for slot in op.input_slots() for place, var in enumerate(op.inputs(slot)) if var is x
        ]
        self.gradient_ops = _gradient_ops(op)

    def gradients(self) -> list[tuple[OpWrapper, VarWrapper]]:
        """Return the parts of the gradient with the operators that make them."""
        found = []
        for op in self.gradient_ops:
            for slot, place in self.places:
                found += [(op, var) for var in op.outputs(slot + '@GRAD')[place : place + 1]]
        return found


def quantize_reads(
    graph: GraphWrapper,
    x: VarWrapper,
    readers: Sequence[OpWrapper],
    quantizer: FakeQuantizer,
    *,
    stays: bool = False,
) -> VarWrapper:
    """Let some operators read ``quantizer(x)`` instead of ``x``, and the gradient pass through it.

    The quantizer is built once, before the first reader; what it builds is marked. Other readers of ``x`` are left
    alone. Several tensors may be quantized one after the other; wrap the program anew when done.

    Args:
        graph: wrapped program of either IR, changed in place, before or after ``minimize``.
        x: a variable of it.
        readers: forward operators of the main block that read ``x``.
        quantizer: builds the forward and, where the program has one, the backward part.
        stays: it is no quantizer but a part of the network, which stays where fake quantizers are taken out again:
            it is not marked.

    Returns:
        What the readers read now.

    Raises:
        GraphError: an operator does not read ``x``, or its gradient operator cannot be told (recomputation, control
            flow) or does not return the gradient that the quantizer learns from; nothing is changed then.
    """
    found = [_Reader(op, x) for op in sorted(readers, key=lambda op: op.idx())]
    _check(graph, x, found, quantizer)
    with matching_ir(graph.program):
        here = Insertion(graph, before=found[0].op)
        y = quantizer.forward(Expressions(here), x)
        gradient_ops = {op.idx(): op for reader in found for op in reader.gradient_ops}
        here.redirect(x, y, [reader.op for reader in found])
        reading = [op for op in gradient_ops.values() if x in op.all_inputs()]
        here.redirect(x, y, reading)
        _keep_role_variables(x, y, reading)
        built = list(here.built)
        parts = {id(var): (op, var) for reader in found for op, var in reader.gradients()}
        for op, gradient in parts.values():
            built += _take_back(graph, x, y, op, gradient, quantizer)
    for raw in built if not stays else ():
        mark(raw, FAKE_QUANTIZER, x.name())
    return y


def check_reads(graph: GraphWrapper, x: VarWrapper, readers: Sequence[OpWrapper], quantizer: FakeQuantizer) -> None:
    """Raise what :func:`quantize_reads` would raise, and change nothing."""
    _check(graph, x, [_Reader(op, x) for op in readers], quantizer)


def quantized_name(op: OpWrapper) -> str | None:
    """Return the name of the tensor whose fake quantizer an operator belongs to, or None."""
    return mark_of(op, FAKE_QUANTIZER)


def steps_to_grid(e: Expressions, steps: VarWrapper) -> VarWrapper:
    """Return the nearest whole numbers, halves away from zero; the gradient passes as if nothing were rounded.

    They are whole exactly: ``c + (round(c) - c)`` loses no bit in floating point.
    """
    rounded = e.multiply(e.sign(steps), e.floor(e.scale(e.abs(steps), 1.0, _BELOW_HALF)))
    change = e.subtract(rounded, steps)
    change.raw.stop_gradient = True
    return e.add(steps, change)


def _keep_role_variables(x: VarWrapper, y: VarWrapper, ops: Sequence[OpWrapper]) -> None:
    """Let legacy gradient operators still say what their gradient is of: Paddle has renamed it there, too."""
    for op in ops:
        said = op.raw.attr('op_role_var') if op._graph.ir == 'legacy' and op.raw.has_attr('op_role_var') else ()
        if y.name() in said:
            op.raw._set_attr('op_role_var', [x.name() if name == y.name() else name for name in said])


def _check(graph: GraphWrapper, x: VarWrapper, readers: list[_Reader], quantizer: FakeQuantizer) -> None:
    if not readers:
        raise GraphError(f'no operators are given that read {x.name()!r} quantized')
    for reader in readers:
        if reader.op._graph is not graph or not reader.places:
            raise GraphError(f'{reader.op!r} does not read {x.name()!r} in this wrapped program')
        if reader.op.is_bwd_op() or reader.op.is_opt_op():
            raise GraphError(
                f'{reader.op!r} belongs to the backward pass or the optimizer and cannot read it quantized'
            )
    if not any(op.is_bwd_op() for op in graph._ops):
        return
    known = {op.idx() for reader in readers for op in reader.gradient_ops}
    for reader in readers:
        _check_gradient_ops(x, reader, quantizer)
    own = {reader.op.idx() for reader in readers}
    makers = [op for op in (*x._consumers, *x._producers) if not op.is_bwd_op() and op.idx() not in own]
    others = {op.idx() for maker in makers for op in _gradient_ops(maker)}
    kinds = {reader.op.type() for reader in readers}
    for op in x._consumers:
        copied = op.is_bwd_op() and (op.type() in kinds or op.type().endswith('_grad'))
        if (copied and op.idx() not in known | others) or op.idx() in known & others:
            raise GraphError(
                f'cannot quantize {x.name()!r} after minimize: {op.type()} of the backward pass reads it and cannot be '
                'told to belong to one forward operator (recomputation, control flow, twice the same operator); '
                'quantize before minimize'
            )


def _check_gradient_ops(x: VarWrapper, reader: _Reader, quantizer: FakeQuantizer) -> None:
    differentiated = any(_is_differentiated(var) for var in reader.op.all_outputs())
    if differentiated and not reader.gradient_ops:
        raise GraphError(
            f'cannot quantize {x.name()!r} after minimize: the gradient operator of {reader.op.type()}, which makes '
            f'{reader.op.all_outputs()[0].name()!r}, is not found; quantize before minimize'
        )
    for op in reader.gradient_ops:
        for slot, _ in reader.places:
            if op.outputs(slot + '@GRAD') and len(op.outputs(slot + '@GRAD')) != len(reader.op.inputs(slot)):
                raise GraphError(
                    f'cannot quantize {x.name()!r} after minimize: {op.type()} returns gradients for some of the '
                    f'tensors in {slot!r} only; quantize before minimize'
                )
    if quantizer.learns and differentiated and not reader.gradients():
        raise GraphError(
            f'cannot learn the quantization of {x.name()!r} after minimize: the backward pass does not compute its '
            f'gradient in {reader.gradient_ops[0].type()}; quantize before minimize'
        )


def _gradient_ops(op: OpWrapper) -> list[OpWrapper]:
    """Return the gradient operators of an operator: by what they read of it, or by its result's gradient."""
    found = op._graph.editor.grad_ops(op)
    wanted = f'{op.type()}_grad'
    if found or op._graph.ir == 'legacy' or not any(other._type == wanted for other in op._graph._ops):
        return found
    gradients = [gradient for var in op.all_outputs() for gradient in _whole_gradient(var)]
    return [reader for gradient in gradients for reader in gradient._consumers if reader.type() == wanted]


def _whole_gradient(var: VarWrapper) -> list[VarWrapper]:
    """Return the gradient of a PIR value, which may be a sum of those of its readers, or nothing."""
    forward = [op for op in var._consumers if not (op.is_bwd_op() or op.is_opt_op())]
    parts = [gradient for op in forward for _, gradient in _Reader(op, var).gradients()]
    if len(parts) < 2:
        return parts
    sums = [op for op in parts[0]._consumers if op.type() in ('sum', 'elementwise_add')]
    return [op.all_outputs()[0] for op in sums if all(part in op.all_inputs() for part in parts)]


def _is_differentiated(var: VarWrapper) -> bool:
    """Tell whether the backward pass computes a gradient of a variable."""
    forward = [op for op in var._consumers if not (op.is_bwd_op() or op.is_opt_op())]
    return any(_Reader(op, var).gradients() for op in forward)


def _take_back(
    graph: GraphWrapper, x: VarWrapper, y: VarWrapper, op: OpWrapper, gradient: VarWrapper, quantizer: FakeQuantizer
) -> list[object]:
    """Put the quantizer's gradient between a gradient operator and what reads its result; return what was built."""
    if graph.ir == 'pir':
        return _take_back_pir(graph, x, y, gradient, quantizer)
    block, name = graph.program.global_block(), gradient.name()
    inner = block.create_var(
        name=f'{name}.quantized', shape=gradient.raw.shape, dtype=gradient.raw.dtype, stop_gradient=True
    )
    here = Insertion(graph, after=op, role='backward')
    arriving = VarWrapper(graph, inner, inner.name)
    taken = quantizer.backward(Expressions(here), x, y, arriving)
    if taken is arriving:
        for raw in here.built:
            raw.desc._rename_input(arriving.name(), name)
        block._remove_var(arriving.name())
        arriving.raw, arriving._name = gradient.raw, name
        return here.built
    op.raw.desc._rename_output(name, inner.name)
    for raw in here.built:
        raw.desc._rename_output(taken.name(), name)
        raw.desc._rename_input(taken.name(), name)
    block._remove_var(taken.name())
    taken.raw, taken._name = gradient.raw, name
    return here.built


def _take_back_pir(
    graph: GraphWrapper, x: VarWrapper, y: VarWrapper, gradient: VarWrapper, quantizer: FakeQuantizer
) -> list[object]:
    raw = gradient.raw
    readers = raw.all_used_ops()
    if not readers and not quantizer.learns:
        return []
    maker = OpWrapper(graph, raw.get_defining_op(), 'gradient', {}, {})
    here = Insertion(graph, after=maker, role='backward')
    taken = quantizer.backward(Expressions(here), x, y, gradient)
    if taken is gradient:
        return here.built
    for reader in readers:
        for index, source in enumerate(reader.operands_source()):
            if source.initialized() and source.is_same(raw):
                reader.operands()[index].set_source(taken.raw)
    naming.supersede(raw, taken.raw, f'before_{naming.value_name(taken.raw).partition(".")[0]}')
    return here.built
