"""What the quantizers of low-bit research share: which layers they take, and what becomes of program and scope."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, Union

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper, load_array, store_array, view_array
from paddleslim_ng.core.teachers import distillation_of, teacher_of
from paddleslim_ng.errors import ConfigError, DataError, GraphError, nearest_names
from paddleslim_ng.quant.buckets import Buckets, check_buckets
from paddleslim_ng.quant.placement import users_by_name
from paddleslim_ng.quant.storage import StorageReport, TensorStorage, float_storage
from paddleslim_ng.quant.straight_through import FakeQuantizer, check_reads, quantize_reads, quantized_name
from paddleslim_ng.quant.targets import TargetOperator, Targets, find_targets
from paddleslim_ng.quant.uniform_grids import UniformGrid, check_bits

__all__ = ['ACTIVATIONS', 'LowBitLayer', 'LowBitProgram', 'LowBitSettings', 'WeightForm', 'apply_low_bit']

# Behind these, activations are quantized with the range that they have in the batch.
ACTIVATIONS: Final = frozenset(
    {'relu', 'relu6', 'leaky_relu', 'prelu', 'elu', 'selu', 'gelu', 'softplus', 'softsign', 'sigmoid', 'tanh'}
    | {'hard_swish', 'hard_sigmoid', 'swish', 'silu', 'mish'}
)
# A weight of which at least this fraction is exactly zero was pruned.
_SPARSE: Final = 0.05
_FLOAT: Final = 32
Bits = Union[int, Mapping[str, int]]
Array = npt.NDArray[Any]


class WeightForm(FakeQuantizer, Protocol):
    """A fake quantizer of a weight that can be computed in numpy, too."""

    def values(self, array: Array, scope: Any) -> npt.NDArray[np.float32]:
        """Return what the program makes of the weight."""

    def side_bits(self) -> int:
        """Return the bits of all that decodes the codes."""

    def backward_to(self, gradient: Array, array: Array, scope: Any) -> dict[str, Array]:
        """Return the gradients, in numpy, of what learns: ``''`` for the weight itself, else a name in the scope."""


@dataclass(frozen=True)
class LowBitSettings:
    """What all quantizers of this kind are told; see :class:`~paddleslim_ng.quant.UniformQuantizer`."""

    weight_bits: Bits = 4
    activation_bits: int = _FLOAT
    bucket: str | None = None
    bucket_size: int = 256
    quantize_all_layers: bool = False
    keep_zeros: bool | None = None
    quantizable_op_type: Collection[str] | None = None
    skip_tensor_list: Sequence[str] = ()
    not_quant_pattern: Sequence[str] = ('skip_quant',)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_buckets(self.bucket, self.bucket_size)
        if isinstance(self.weight_bits, Mapping):
            for name, bits in self.weight_bits.items():
                check_bits(bits, f'weight_bits of {name!r}')
        else:
            check_bits(self.weight_bits, 'weight_bits')
        if self.activation_bits != _FLOAT:
            check_bits(self.activation_bits, f'activation_bits, where it is not {_FLOAT},')


class LowBitLayer(NamedTuple):
    """A quantized weight.

    Attributes:
        weight: name of the parameter.
        bits: of a code.
        buckets: parts with a range or codebook of their own.
        keep_zeros: whether zeros stay exactly zero.
        outputs: first outputs of the operators that read it.
        form: how it is quantized.
    """

    weight: str
    bits: int
    buckets: Buckets
    keep_zeros: bool
    outputs: tuple[str, ...]
    form: WeightForm


@dataclass(frozen=True)
class LowBitProgram:
    """What ``apply`` returns.

    Attributes:
        program: the program, which was changed in place.
        layers: its quantized weights, in program order.
        activations: names of its quantized activations.
        report: storage of its parameters.
    """

    program: Any
    layers: tuple[LowBitLayer, ...]
    activations: tuple[str, ...]
    report: StorageReport

    def values(self, scope: Any = None) -> dict[str, npt.NDArray[np.float32]]:
        """Return the quantized weights as the program computes them from what a scope holds now, by name.

        Raises:
            GraphError: the scope lacks a weight or codebook.
            DataError: a weight is not finite.
        """
        found = scope if scope is not None else paddle.static.global_scope()
        return {layer.weight: layer.form.values(load_array(found, layer.weight), found) for layer in self.layers}

    def finish(self, scope: Any = None, place: Any = None) -> StorageReport:
        """Put the quantized weights into the scope for good, so that any float program of these weights has them.

        This program computes the same afterwards, except for what float rounds in the last place.

        Args:
            scope: Paddle's global scope where None.
            place: device of the weights.

        Returns:
            Storage of all parameters.

        Raises:
            GraphError: the scope lacks a weight or codebook; nothing is changed then.
            DataError: a weight is not finite; nothing is changed then.
        """
        found = scope if scope is not None else paddle.static.global_scope()
        for name, array in self.values(found).items():
            store_array(found, name, array, place)
        return self.report


class _Plan(NamedTuple):
    weights: dict[str, tuple[int | None, list[TargetOperator]]]
    skipped: dict[str, str]


def apply_low_bit(
    program: Any, scope: Any, settings: LowBitSettings, form_of: FormOf
) -> tuple[GraphWrapper, LowBitProgram]:
    """Insert the quantizers of a program's weights and activations.

    Args:
        program: of either IR, or a GraphWrapper; changed in place.
        scope: holds the weights.
        settings: what is quantized.
        form_of: makes the quantizer of a weight.

    Returns:
        The wrapped program, and what was done.

    Raises:
        GraphError: the program is quantized already, a gradient operator is not found, or the scope lacks a weight.
        ConfigError: nothing is left to quantize, or ``weight_bits`` does not name exactly what is.
        DataError: a weight is not finite.
    """
    graph = GraphWrapper(program)
    if any(quantized_name(op) for op in graph.ops()):
        raise GraphError('the program has fake quantizers already: apply a quantizer to the program before that')
    plan = _plan(graph, settings)
    bits = _bits(settings.weight_bits, plan)
    before = float_storage(graph)
    layers = [_layer(name, *found, bits[name], scope, settings, form_of) for name, found in plan.weights.items()]
    activations = _activations(graph) if settings.activation_bits != _FLOAT else {}
    wanted = [(var, readers, layer.form) for layer in layers for var, readers in _reads(plan.weights[layer.weight][1])]
    wanted += [(var, readers, UniformGrid(settings.activation_bits)) for var, readers in activations.values()]
    for item in wanted:
        check_reads(graph, *item)
    for item in wanted:
        quantize_reads(graph, *item)
    return graph, LowBitProgram(graph.program, tuple(layers), tuple(activations), _report(before, layers, plan.skipped))


class FormOf(Protocol):
    """Makes the quantizer of a weight."""

    def __call__(self, name: str, array: Array, bits: int, buckets: Buckets, *, keep_zeros: bool) -> WeightForm:
        """Return it; ``array`` is what the scope holds."""


def _plan(graph: GraphWrapper, settings: LowBitSettings) -> _Plan:
    """Choose the weights: not those of the first and the last layer, and none that others read in float."""
    every = find_targets(graph, not_quant_pattern=())
    chosen = find_targets(
        graph,
        types=settings.quantizable_op_type,
        skip_tensor_list=settings.skip_tensor_list,
        not_quant_pattern=settings.not_quant_pattern,
    )
    ends = _ends(every) if not settings.quantize_all_layers else {}
    skipped = dict(chosen.skipped)
    kept: dict[str, list[TargetOperator]] = {}
    for operator in chosen.operators:
        reason = _reason(operator, ends)
        if reason is None:
            kept.setdefault(str(operator.weight), []).append(operator)
        else:
            skipped[operator.output] = reason
    users = users_by_name(graph)
    for name, operators in list(kept.items()):
        own = {operator.op.idx() for operator in operators}
        others = [op.type() for op in users[name] if op.idx() not in own and not (op.is_bwd_op() or op.is_opt_op())]
        if others:
            reason = f'its weight {name!r} is read in float by {others[0]}, too'
            skipped.update((operator.output, reason) for operator in kept.pop(name))
    if not kept:
        reasons = '; '.join(f'{name}: {reason}' for name, reason in skipped.items()) or 'it has no layer with a weight'
        raise ConfigError(f'the program has no weight to quantize: {reasons}')
    axes = chosen.weights
    return _Plan({name: (axes[name], operators) for name, operators in kept.items()}, skipped)


def _ends(every: Targets) -> dict[str, str]:
    names = list(dict.fromkeys(str(operator.weight) for operator in every.operators))
    ends = {} if not names else {names[0]: 'first', names[-1]: 'last'}
    return {name: f'it is the {place} layer (quantize_all_layers takes it)' for name, place in ends.items()}


def _reason(operator: TargetOperator, ends: Mapping[str, str]) -> str | None:
    if str(operator.weight) in ends:
        return ends[str(operator.weight)]
    weight = next(var for var in operator.op.all_inputs() if var.name() == operator.weight)
    return None if weight.dtype() == 'float32' else f'its weight holds {weight.dtype()}, and only float32 is quantized'


def _bits(wanted: Bits, plan: _Plan) -> dict[str, int]:
    if not isinstance(wanted, Mapping):
        return dict.fromkeys(plan.weights, int(wanted))
    for name in wanted:
        if name not in plan.weights:
            raise ConfigError(f'weight_bits names {name!r}, which is not quantized{nearest_names(name, plan.weights)}')
    missing = [name for name in plan.weights if name not in wanted]
    if missing:
        raise ConfigError(f'weight_bits has no entry for {missing[0]!r}; name all of {list(plan.weights)}')
    return {name: int(wanted[name]) for name in plan.weights}


def _layer(
    name: str,
    axis: int | None,
    operators: list[TargetOperator],
    bits: int,
    scope: Any,
    settings: LowBitSettings,
    form_of: FormOf,
) -> LowBitLayer:
    array = view_array(scope, name)
    if not np.isfinite(array).all():
        raise DataError(f'the weight {name!r} cannot be quantized: it has NaN or infinity')
    shape = next(var for var in operators[0].op.all_inputs() if var.name() == name).shape()
    if array.shape != shape:
        raise GraphError(f'the scope has {name!r} in shape {array.shape}, the program in shape {shape}')
    keep = settings.keep_zeros
    if keep is None:
        keep = bool(np.mean(array == 0) >= _SPARSE)
    buckets = Buckets.of(shape, settings.bucket, axis, settings.bucket_size)
    form = form_of(name, array, bits, buckets, keep_zeros=keep)
    return LowBitLayer(name, bits, buckets, keep, tuple(operator.output for operator in operators), form)


def _reads(operators: Iterable[TargetOperator]) -> list[tuple[VarWrapper, list[OpWrapper]]]:
    """Group operators by the variable through which they read a weight; PIR may have several of one name."""
    found: dict[int, tuple[VarWrapper, list[OpWrapper]]] = {}
    for operator in operators:
        var = next(var for var in operator.op.all_inputs() if var.name() == operator.weight)
        found.setdefault(id(var), (var, []))[1].append(operator.op)
    return list(found.values())


def _activations(graph: GraphWrapper) -> dict[str, tuple[VarWrapper, list[OpWrapper]]]:
    """Return what activation functions make, with its readers."""
    found = {}
    for op in graph.ops():
        if op.type() not in ACTIVATIONS or not _is_own(op):
            continue
        var = op.all_outputs()[0]
        readers = [reader for reader in var.outputs() if _is_own(reader) and reader.type() != 'fetch']
        if readers and var.dtype() == 'float32':
            found[var.name()] = (var, readers)
    return found


def _is_own(op: OpWrapper) -> bool:
    return not (op.is_bwd_op() or op.is_opt_op()) and teacher_of(op) is None and distillation_of(op) is None


def _report(
    found: dict[str, TensorStorage], layers: Iterable[LowBitLayer], skipped: Mapping[str, str]
) -> StorageReport:
    for layer in layers:
        before = found[layer.weight]
        found[layer.weight] = TensorStorage(
            before.name,
            before.shape,
            layer.bits,
            layer.buckets.count,
            layer.form.side_bits(),
            before.float_bits,
            'zeros are kept' if layer.keep_zeros else '',
        )
    return StorageReport(tuple(found.values()), dict(skipped))
