"""Blocks of a program whose outputs are reconstructed: single layers, or what stands between residual additions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.errors import ConfigError, GraphError, nearest_names
from paddleslim_ng.quant.placement import first_output, users_by_name
from paddleslim_ng.quant.spec import QuantizationSpec

__all__ = ['LEVELS', 'Block', 'find_blocks', 'given_blocks']

# PaddleSlim's names.
LEVELS: Final = ('layer-wise', 'region-wise')
# What belongs to the layer before it: its output is what the next layer reads.
_FOLLOWING: Final = frozenset(
    {'elementwise_add', 'batch_norm', 'scale', 'relu', 'relu6', 'leaky_relu', 'prelu', 'elu', 'gelu', 'sigmoid', 'tanh'}
    | {'hard_swish', 'hard_sigmoid', 'swish', 'silu', 'mish'}
)
_FERRIES: Final = frozenset({'feed', 'fetch'})


@dataclass(frozen=True)
class Block:
    """A part of a program with one output.

    Attributes:
        inputs: names of the tensors that it reads from outside.
        output: name of the tensor that it makes.
        operators: its quantized operators, by their first outputs, in program order.
        weights: its quantized weights, which no operator outside reads.
    """

    inputs: tuple[str, ...]
    output: str
    operators: tuple[str, ...]
    weights: tuple[str, ...]


class _Segment(NamedTuple):
    """Operators behind one narrow place of the program, up to the next one."""

    ops: list[OpWrapper]
    output: str


def find_blocks(
    program: Any, spec: QuantizationSpec, fetches: Iterable[Any], level: str = 'layer-wise', limit: int = 6
) -> list[Block]:
    """Divide a program into blocks.

    Args:
        program: an inference program of either IR, or a GraphWrapper.
        spec: what of it is quantized.
        fetches: its outputs.
        level: ``'layer-wise'``: every quantized weight, with the bias, batch norm and activation function behind it.
            ``'region-wise'``: what stands between two places where a single tensor passes, such as a residual block;
            single layers that follow each other are put together, with no pooling or reshaping between them.
        limit: largest number of quantized weights in a region; a residual block with more is taken layer by layer.

    Returns:
        The blocks that have a weight of their own, in program order.

    Raises:
        ConfigError: an unknown level, or a limit that is not positive.
    """
    if level not in LEVELS:
        raise ConfigError(
            f'unknown level {level!r} of reconstruction; known: {list(LEVELS)}{nearest_names(level, LEVELS)}'
        )
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigError(f'limit must be a positive whole number, not {limit!r}')
    view = _View(GraphWrapper(program), spec, {GraphWrapper.name_of(item) for item in fetches})
    found = view.layers(view.ops) if level == 'layer-wise' else view.regions(limit)
    return [block for block in found if block.weights]


def given_blocks(
    program: Any,
    spec: QuantizationSpec,
    regions: Iterable[Sequence[str]],
    weights: Sequence[Sequence[str]] | None = None,
) -> list[Block]:
    """Return blocks that are given by the names of their input and output, as PaddleSlim's ``regions`` are.

    Args:
        program: an inference program of either IR, or a GraphWrapper.
        spec: what of it is quantized.
        regions: pairs of an input and an output, from the front of the program to its end.
        weights: for each region, which of its weights are learned; all where None.

    Raises:
        GraphError: a name does not exist, or an output depends on more than the input.
        ConfigError: a region is no pair, or holds no such quantized weight.
    """
    view = _View(GraphWrapper(program), spec, set())
    found = []
    for index, region in enumerate(regions):
        if isinstance(region, str) or len(region) != 2:
            raise ConfigError(f'region {index} must be the names of an input and an output, not {region!r}')
        block = view.between(*map(view.graph.var, region))
        if weights is not None:
            wanted = tuple(weights[index]) if index < len(weights) else ()
            unknown = [name for name in wanted if name not in block.weights]
            if unknown:
                raise ConfigError(f'{unknown} are no quantized weights of the region {list(region)}: {block.weights}')
            block = Block(block.inputs, block.output, block.operators, wanted)
        if not block.weights:
            raise ConfigError(f'the region {list(region)} holds no quantized weight of its own')
        found.append(block)
    return found


class _View:
    """A program as blocks are looked for in it."""

    def __init__(self, graph: GraphWrapper, spec: QuantizationSpec, kept: set[str]) -> None:
        self.graph = graph
        self._spec = spec
        self._kept = kept
        self._users = users_by_name(graph)
        self._weights = {tensor.name for tensor in spec.of_kind('weight')}
        self._constants = _constants(graph)
        self.ops = [
            op
            for op in graph.ops()
            if op.type() not in _FERRIES and not all(self._is_constant(var) for var in op.all_outputs())
        ]

    def layers(self, ops: Iterable[OpWrapper]) -> Iterator[Block]:
        """Yield a block for every operator with a quantized weight."""
        for op in ops:
            if self._weights_of([op]):
                group = [op]
                end = self._result(op)
                while (following := self._following(end)) is not None:
                    group.append(following)
                    end = self._result(following)
                yield self._block(group, end.name())

    def regions(self, limit: int) -> Iterator[Block]:
        """Yield blocks between narrow places."""
        for group, end in self._grouped(limit):
            if len(self._weighted(group)) > limit:
                yield from self.layers(group)
            else:
                yield self._block(group, end)

    def between(self, start: VarWrapper, end: VarWrapper) -> Block:
        """Return all that leads from one tensor to another."""
        pending, ops = [end], dict[int, OpWrapper]()
        while pending:
            var = pending.pop()
            if var.name() == start.name() or self._is_constant(var):
                continue
            makers = [op for op in var.inputs() if op.type() not in _FERRIES]
            if not makers:
                raise GraphError(f'{end.name()!r} depends on {var.name()!r}, too, and not on {start.name()!r} alone')
            for op in makers:
                if op.idx() not in ops:
                    ops[op.idx()] = op
                    pending.extend(op.all_inputs())
        return self._block([ops[place] for place in sorted(ops)], end.name())

    def _grouped(self, limit: int) -> Iterator[tuple[list[OpWrapper], str]]:
        group: list[OpWrapper] = []
        end, alone = '', False
        for segment in self._segments():
            count, new = len(self._weighted(group)), len(self._weighted(segment.ops))
            branching = len(segment.ops) > 1
            follows = not new and not branching and segment.ops[0].type() in _FOLLOWING
            if count and not follows and (not new or alone or branching or count + new > limit):
                yield group, end
                group, alone = [], False
            group = [*group, *segment.ops]
            alone = alone or branching
            end = segment.output
        if group:
            yield group, end

    def _segments(self) -> Iterator[_Segment]:
        """Yield the operators between the places where one tensor alone is still needed."""
        last = {name: len(self.ops) for name in self._kept}
        for place, op in enumerate(self.ops):
            for var in op.all_inputs():
                last[var.name()] = max(last.get(var.name(), place), place)
        inputs = [var for op in self.ops for var in op.all_inputs() if not self._is_constant(var) and not _makers(var)]
        alive = dict.fromkeys(var.name() for var in inputs)
        group: list[OpWrapper] = []
        for place, op in enumerate(self.ops):
            group.append(op)
            alive.update(dict.fromkeys(var.name() for var in op.all_outputs()))
            alive = {name: None for name in alive if last.get(name, -1) > place}
            if len(alive) == 1:
                yield _Segment(group, next(iter(alive)))
                group = []

    def _following(self, var: VarWrapper) -> OpWrapper | None:
        readers = var.outputs()
        if len(readers) != 1 or var.name() in self._kept or readers[0].type() not in _FOLLOWING:
            return None
        others = [item for item in readers[0].all_inputs() if item.name() != var.name()]
        return readers[0] if all(map(self._is_constant, others)) else None

    def _result(self, op: OpWrapper) -> VarWrapper:
        """Return what an operator makes for others, not the statistics or shapes beside it."""
        read = [var for var in op.all_outputs() if not self._is_constant(var)]
        return next((var for var in read if var.outputs() or var.name() in self._kept), read[0])

    def _block(self, ops: Sequence[OpWrapper], output: str) -> Block:
        made = {var.name() for op in ops for var in op.all_outputs()}
        read = dict.fromkeys(
            var.name() for op in ops for var in op.all_inputs() if not self._is_constant(var) and var.name() not in made
        )
        places = {op.idx() for op in ops}
        names = [first_output(op) for op in ops if op.all_outputs()]
        own = [name for name in self._weights_of(ops) if all(op.idx() in places for op in self._users[name])]
        return Block(tuple(read), output, tuple(name for name in names if name in self._spec.operators), tuple(own))

    def _weighted(self, ops: Iterable[OpWrapper]) -> list[OpWrapper]:
        return [op for op in ops if self._weights_of([op])]

    def _weights_of(self, ops: Iterable[OpWrapper]) -> list[str]:
        reads = [name for op in ops for name in self._spec.operators.get(first_output(op), ()) if name in self._weights]
        return list(dict.fromkeys(reads))

    def _is_constant(self, var: VarWrapper) -> bool:
        return var.name() in self._constants or var.persistable() or var.is_parameter()


def _makers(var: VarWrapper) -> list[OpWrapper]:
    return [op for op in var.inputs() if op.type() not in _FERRIES]


def _constants(graph: GraphWrapper) -> set[str]:
    """Return the names of what is computed from parameters alone, such as a bias in another shape."""
    found: set[str] = set()
    for op in graph.ops():
        read = op.all_inputs()
        if op.type() not in _FERRIES and all(
            var.persistable() or var.is_parameter() or var.name() in found for var in read
        ):
            found.update(var.name() for var in op.all_outputs())
    return found
