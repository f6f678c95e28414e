"""The feature maps of a network: which results of a program carry features, and how deep in the network they lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from paddleslim_ng.analysis.op_kinds import ELEMENTWISE, FREE, NORMALIZATION, POOLING, REDUCTION
from paddleslim_ng.analysis.shapes import ConcreteShapes
from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper

__all__ = ['Feature', 'find_features']

_MAIN_SLOTS: Final = ('Output', 'Out', 'Y', 'Hidden')
_FLOATS: Final = frozenset({'float16', 'bfloat16', 'float32', 'float64'})
# What follows the last layer of a network: probabilities, and the beginnings of losses.
_HEADS: Final = frozenset({'abs', 'exp', 'log', 'log_softmax', 'pow', 'scale', 'sigmoid', 'softmax', 'square', 'sum'})
_LOSSES: Final = frozenset(
    {
        'bce_loss',
        'cross_entropy',
        'cross_entropy2',
        'hinge_loss',
        'huber_loss',
        'identity_loss',
        'kldiv_loss',
        'label_smooth',
        'log_loss',
        'nll_loss',
        'sigmoid_cross_entropy_with_logits',
        'smooth_l1_loss',
        'softmax_with_cross_entropy',
    }
)
_NO_FEATURES: Final = REDUCTION - {'reduce_max', 'reduce_mean', 'reduce_sum', 'frobenius_norm'} | {'shape', 'size'}
_FINISHING: Final = (ELEMENTWISE | NORMALIZATION) - _HEADS - _LOSSES
_TAIL: Final = _FINISHING | POOLING | FREE


@dataclass(frozen=True)
class Feature:
    """A feature map.

    Attributes:
        name: of the tensor.
        shape: static shape, -1 where the program leaves a size open.
        sizes: the same for one sample; the first entry is greater than 1 where other axes were merged into the batch.
        depth: operators on the longest path from the inputs to this tensor; moves of data, such as a reshape, are not
            counted.
        relative_depth: the same as a fraction of the network's depth, in (0, 1].
        channel_axis: axis of ``shape`` that holds the channels.
    """

    name: str
    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    depth: int
    relative_depth: float
    channel_axis: int

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.sizes[self.channel_axis]


def find_features(
    graph: GraphWrapper,
    ops: Sequence[OpWrapper],
    *,
    every: bool = False,
    input_shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> list[Feature]:
    """Return the feature maps that some operators compute, in program order.

    A feature map is a floating-point result with a batch axis that depends on the data and not on labels, and that a
    parameter reads further on, or that the last layers make. Labels are data inputs from which no operator with
    parameters is reached.

    Args:
        graph: a wrapped program.
        ops: the forward operators of one network in it, in program order.
        every: give every such result; else one for each convolution, matrix product, sum, ...: the last of those that
            only normalise, activate or add a bias.
        input_shapes: whole shapes of inputs of which more than the batch is open.

    Raises:
        GraphError: the shape of a feature depends on sizes that neither the program nor ``input_shapes`` gives.
    """
    network = _Network(ops)
    chosen = [var for var in network.features if every or network.is_end(var)]
    if not chosen:
        return []
    shapes = ConcreteShapes(graph, input_shapes)
    last = max(network.depths[id(var)] for var in network.features)
    channels_last = any(op.attr('data_format') in ('NHWC', 'NDHWC') for op in ops if 'conv' in op.type())
    found = []
    for var in chosen:
        sizes, depth = shapes(var), network.depths[id(var)]
        per_sample = (sizes[0] // shapes.batch if sizes[0] % shapes.batch == 0 else sizes[0], *sizes[1:])
        axis = len(sizes) - 1 if channels_last or len(sizes) == 3 else 1
        found.append(Feature(var.name(), var.shape(), per_sample, depth, depth / last, axis))
    return found


class _Network:
    """Depths, and what carries features, in one pass forward and one backward over the operators."""

    def __init__(self, ops: Sequence[OpWrapper]) -> None:
        self._ops = [op for op in ops if op.type() not in ('feed', 'fetch')]
        self._members = {id(op) for op in self._ops}
        self._ahead = self._reaches_parameters()
        self.depths: dict[int, int] = {}
        self._kept: set[int] = set()
        self._labelled: set[int] = set()
        self.features: list[VarWrapper] = []
        for op in self._ops:
            self._visit(op)
        self._featured = {id(var) for var in self.features}

    def _reaches_parameters(self) -> set[int]:
        """Return the operators whose results a parameter meets further on."""
        ahead: set[int] = set()
        for op in reversed(self._ops):
            readers = (reader for var in op.all_outputs() for reader in self._readers(var))
            if any(id(reader) in ahead or _reads_parameter(reader) for reader in readers if reader is not op):
                ahead.add(id(op))
        return ahead

    def _readers(self, var: VarWrapper) -> list[OpWrapper]:
        return [op for op in var.outputs() if id(op) in self._members]

    def _is_input(self, var: VarWrapper) -> bool:
        """Tell whether a variable is fed, and its readers lead to parameters."""
        return _is_fed(var) and any(id(op) in self._ahead or _reads_parameter(op) for op in self._readers(var))

    def _is_label(self, var: VarWrapper) -> bool:
        return _is_fed(var) and id(var) not in self.depths

    def _visit(self, op: OpWrapper) -> None:
        sources = [var for var in op.all_inputs() if id(var) in self.depths or self._is_input(var)]
        for var in sources:
            self.depths.setdefault(id(var), 0)
        if any(id(var) in self._labelled or self._is_label(var) for var in op.all_inputs()):
            self._labelled.update(id(var) for var in op.all_outputs())
            return
        if not sources or op.type() in _LOSSES or op.type() in _NO_FEATURES:
            return
        if not (id(op) in self._ahead or _reads_parameter(op) or self._is_tail(op, sources)):
            return
        depth = max(self.depths[id(var)] for var in sources) + (op.type() not in FREE)
        for var in _results(op):
            self.depths[id(var)] = depth
            self._kept.add(id(var))
            # Another view of the same tensor is no feature of its own, but the joint of several is.
            if depth and len(var.shape()) >= 2 and var.dtype() in _FLOATS and (op.type() not in FREE or sources[1:]):
                self.features.append(var)

    def _is_tail(self, op: OpWrapper, sources: Iterable[VarWrapper]) -> bool:
        return op.type() in _TAIL and all(id(var) in self._kept for var in sources)

    def is_end(self, var: VarWrapper) -> bool:
        """Tell whether a feature is the end of its convolution, normalisation and activation."""
        readers = self._readers(var)
        return len(readers) != 1 or not self._finishes(readers[0], var)

    def _finishes(self, op: OpWrapper, var: VarWrapper) -> bool:
        others = [other for other in op.all_inputs() if other is not var and id(other) in self.depths]
        same = any(id(out) in self._featured and out.shape() == var.shape() for out in _results(op))
        return op.type() in _FINISHING and not others and same


def _reads_parameter(op: OpWrapper) -> bool:
    return any(var.is_parameter() for var in op.all_inputs())


def _is_fed(var: VarWrapper) -> bool:
    makers = any(op.type() != 'feed' for op in var.inputs())
    return not (makers or var.persistable() or var.is_parameter())


def _results(op: OpWrapper) -> list[VarWrapper]:
    """Return the main results: no statistics, masks, indices or shapes, and nothing that outlives the run."""
    for slot in _MAIN_SLOTS:
        found = [var for var in op.outputs(slot) if not (var.persistable() or var.is_parameter())]
        if found:
            return found
    return []
