"""Concrete shapes of a program's variables for a batch of one.

Static shapes have -1 for the batch, and for every axis into which the batch was merged, such as batch times windows.
Which of the two a -1 stands for decides the cost of a layer, so it is worked out: by rules where these are certain,
else by running the program once on zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from paddleslim_ng.analysis.op_kinds import KEEPS_LEADING_AXIS
from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.teachers import distillation_of, teacher_of
from paddleslim_ng.errors import ConfigError, GraphError, nearest_names
from paddleslim_ng.runtime.feeds import data_inputs
from paddleslim_ng.runtime.shape_probe import probe_shapes

__all__ = ['PARTS', 'ConcreteShapes', 'forward_ops', 'forward_ops_of']

Shape = tuple[int, ...]
_RESULTS: Final = ('Output', 'Out', 'Y', 'Loss')


def forward_ops(graph: GraphWrapper) -> list[OpWrapper]:
    """Return the operators of the forward pass, feed and fetch excluded."""
    return [op for op in graph.ops() if op.type() not in ('feed', 'fetch') and not (op.is_bwd_op() or op.is_opt_op())]


PARTS: Mapping[str, Callable[[OpWrapper], bool]] = {
    'student': lambda op: teacher_of(op) is None and distillation_of(op) is None,
    'teachers': lambda op: teacher_of(op) is not None,
    'losses': lambda op: distillation_of(op) is not None,
    'all': lambda op: True,
}
"""Parts of a program that a teacher has been merged into; without one, everything is the student."""


def forward_ops_of(graph: GraphWrapper, part: str) -> list[OpWrapper]:
    """Return the operators of the forward pass that belong to a part of the program.

    Args:
        graph: a wrapped program.
        part: a key of :data:`PARTS`: ``'student'``, ``'teachers'``, the distillation ``'losses'`` with their adapters,
            or ``'all'``.

    Raises:
        ConfigError: there is no such part.
    """
    if part not in PARTS:
        raise ConfigError(f'unknown part {part!r}{nearest_names(part, PARTS)}; known: {", ".join(PARTS)}')
    return [op for op in forward_ops(graph) if PARTS[part](op)]


class ConcreteShapes:
    """Shapes without open sizes, for a batch of one.

    The leading axis of every data input is the batch. Where the program leaves it open, shapes are those of a batch of
    one. Where all data inputs have the same fixed batch, shapes are as they stand and ``batch`` is that size.

    Args:
        graph: the program.
        input_shapes: ``{data input: whole shape}``; the leading axis may be None or -1.

    Attributes:
        batch: by how much the shapes of what depends on data exceed those of a single sample.

    Raises:
        GraphError: ``input_shapes`` names no data input.
        ConfigError: a given shape has another rank than the program's, or an open size behind the leading axis.
    """

    def __init__(self, graph: GraphWrapper, input_shapes: Mapping[str, Sequence[int | None]] | None = None) -> None:
        self._graph = graph
        self._inputs = {var.name(): var for var in data_inputs(graph)}
        given = _checked(self._inputs, input_shapes or {})
        self._feeds = {name: _for_one_sample(var.shape(), given.get(name)) for name, var in self._inputs.items()}
        self.batch = _fixed_batch(self._inputs)
        # Given sizes may contradict the static shapes behind them, so then these are not used.
        self._trust_static = not any(
            size != static
            for name, shape in given.items()
            for size, static in zip(shape[1:], self._inputs[name].shape()[1:])
        )
        self._shapes: dict[VarWrapper, Shape | None] = {var: self._feeds[name] for name, var in self._inputs.items()}
        self._probed: dict[str, Shape] | None = None
        if self._trust_static:
            for op in forward_ops(graph):
                _propagate(op, self._shapes)

    def __call__(self, var: VarWrapper) -> Shape:
        """Return the concrete shape of ``var``.

        Raises:
            GraphError: it depends on a size that the program leaves open and ``input_shapes`` does not give, or Paddle
                cannot run the program.
        """
        known = self._known(var)
        return known if known is not None else self._probe(var)

    def _known(self, var: VarWrapper) -> Shape | None:
        if var.persistable() or (self._trust_static and -1 not in var.shape()):
            return var.shape()
        found = self._shapes.get(var)
        return found if found is not None and -1 not in found else None

    def _probe(self, var: VarWrapper) -> Shape:
        open_inputs = [name for name, shape in self._feeds.items() if -1 in shape]
        if open_inputs:
            listed = ', '.join(f'{name!r} {list(self._inputs[name].shape())}' for name in open_inputs)
            example = {name: [None, *(64 if n < 0 else n for n in self._feeds[name][1:])] for name in open_inputs}
            raise GraphError(
                f'the shape {list(var.shape())} of {var.name()!r} depends on sizes that the program leaves open in '
                f'{listed}: give them, as in input_shapes={example}'
            )
        if self._probed is None:
            self._probed = probe_shapes(self._graph, self._feeds, self._probe_targets(var))
        if var.name() not in self._probed:
            self._probed.update(probe_shapes(self._graph, self._feeds, [var.name()]))
        return self._probed[var.name()]

    def _probe_targets(self, var: VarWrapper) -> list[str]:
        """Return what one run may just as well look at: unknown operands and results of operators with a cost."""
        from paddleslim_ng.analysis.op_costs import COUNTED

        found = [var]
        for op in forward_ops(self._graph):
            if op.type() in COUNTED:
                found += op.all_inputs()
                found += [out for slot in _RESULTS for out in op.outputs(slot)]
        return list(dict.fromkeys(v.name() for v in found if v is var or self._known(v) is None))


def _checked(inputs: Mapping[str, VarWrapper], given: Mapping[str, Sequence[int | None]]) -> dict[str, tuple[int, ...]]:
    checked = {}
    for name, shape in given.items():
        if name not in inputs:
            raise GraphError(
                f'input_shapes names {name!r}, which is no data input of the program{nearest_names(name, inputs)}; '
                f'there are {sorted(inputs)}'
            )
        sizes = tuple(-1 if size is None else int(size) for size in shape)
        static = inputs[name].shape()
        if len(sizes) != len(static) or any(size < 1 for size in sizes[1:]):
            raise ConfigError(
                f'input_shapes[{name!r}] = {list(shape)} must give all sizes of {list(static)} but the first'
            )
        checked[name] = sizes
    return checked


def _for_one_sample(static: Shape, given: Shape | None) -> Shape:
    if not static:
        return static
    leading = 1 if static[0] < 0 else static[0]
    return (leading, *(given[1:] if given is not None else static[1:]))


def _fixed_batch(inputs: Mapping[str, VarWrapper]) -> int:
    if any(-1 in var.shape() for var in inputs.values()):
        return 1
    leading = {var.shape()[0] for var in inputs.values() if var.shape()}
    only = leading.pop() if len(leading) == 1 else 1
    return max(only, 1)


def _propagate(op: OpWrapper, shapes: dict[VarWrapper, Shape | None]) -> None:
    """Note the concrete shapes of the results that static shapes leave open; None where no rule is certain."""
    rule = _RULES.get(op.type())
    for slot in op.output_slots():
        if slot == 'XShape':
            continue
        for out in op.outputs(slot):
            static = out.shape()
            if -1 not in static:
                continue
            if rule is not None:
                found = rule(op, out, shapes)
            elif op.type() in KEEPS_LEADING_AXIS:
                found = _leading_axis_kept(op, out, shapes)
            else:
                found = None
            shapes[out] = found if found is not None and -1 not in found else None


def _shape_of(var: VarWrapper, shapes: Mapping[VarWrapper, Shape | None]) -> Shape | None:
    static = var.shape()
    return shapes.get(var) if -1 in static else static


def _source(op: OpWrapper, shapes: Mapping[VarWrapper, Shape | None]) -> Shape | None:
    inputs = op.inputs('X') or op.inputs('Input')
    return _shape_of(inputs[0], shapes) if inputs else None


def _leading_axis_kept(op: OpWrapper, out: VarWrapper, shapes: Mapping[VarWrapper, Shape | None]) -> Shape | None:
    """Take the leading size over from the inputs whose only open axis is the leading one, broadcasting 1."""
    static = out.shape()
    if static[0] != -1 or -1 in static[1:] or op.attr('axis') == 0:
        return None
    if 0 in (op.attr('axes') or ()):
        return None
    open_inputs = [var for var in op.all_inputs() if -1 in var.shape()]
    sizes = set()
    for var in open_inputs:
        shape = shapes.get(var)
        if shape is None or -1 in var.shape()[1:] or (len(open_inputs) > 1 and len(shape) != len(static)):
            return None
        sizes.add(shape[0])
    sizes.discard(1)
    if not open_inputs or len(sizes) > 1:
        return None
    return (sizes.pop() if sizes else 1, *static[1:])


def _transposed(op: OpWrapper, out: VarWrapper, shapes: Mapping[VarWrapper, Shape | None]) -> Shape | None:
    source, order = _source(op, shapes), op.attr('axis')
    if source is None or not order or len(order) != len(source):
        return None
    return tuple(source[axis] for axis in order)


def _reshaped(op: OpWrapper, out: VarWrapper, shapes: Mapping[VarWrapper, Shape | None]) -> Shape | None:
    """Fill the one open size by the number of elements, after copying sizes that the target gives as 0."""
    source = _source(op, shapes)
    if source is None or -1 in source:
        return None
    sizes = list(out.shape())
    target = op.attr('shape')
    if sizes.count(-1) > 1 and op.type() == 'reshape2' and isinstance(target, (list, tuple)):
        for axis, size in enumerate(target[: len(source)]):
            if size == 0 and sizes[axis] == -1:
                sizes[axis] = source[axis]
    rest = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) != 1 or rest == 0 or math.prod(source) % rest:
        return None
    sizes[sizes.index(-1)] = math.prod(source) // rest
    return tuple(sizes)


def _recurrent(op: OpWrapper, out: VarWrapper, shapes: Mapping[VarWrapper, Shape | None]) -> Shape | None:
    """Outputs are [time, batch, width], states [layers, batch, width]; only the input's batch can be open."""
    source, static = _source(op, shapes), out.shape()
    if source is None or len(static) != 3 or static[1] != -1:
        return None
    leading = source[0] if static[0] == -1 else static[0]
    return (leading, source[1], static[2])


_Rule = Callable[[OpWrapper, VarWrapper, Mapping[VarWrapper, 'Shape | None']], 'Shape | None']
_RULES: Final[Mapping[str, _Rule]] = {
    'flatten_contiguous_range': _reshaped,
    'reshape2': _reshaped,
    'rnn': _recurrent,
    'squeeze2': _reshaped,
    'transpose2': _transposed,
    'unsqueeze2': _reshaped,
}
