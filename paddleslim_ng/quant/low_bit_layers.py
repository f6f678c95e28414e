"""Which weights and activations low-bit quantizers take, and with how many bits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Union

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.teachers import distillation_of, teacher_of
from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.quant.buckets import check_buckets
from paddleslim_ng.quant.placement import users_by_name
from paddleslim_ng.quant.targets import TargetOperator, Targets, find_targets
from paddleslim_ng.quant.uniform_grids import check_bits

__all__ = [
    'ACTIVATIONS',
    'FLOAT_BITS',
    'LayerPlan',
    'LowBitSettings',
    'PlannedWeight',
    'activation_reads',
    'bits_by_layer',
    'plan_layers',
    'weight_reads',
]

# Behind these, activations are quantized with the range that they have in the batch.
ACTIVATIONS: Final = frozenset(
    {'relu', 'relu6', 'leaky_relu', 'prelu', 'elu', 'selu', 'gelu', 'softplus', 'softsign', 'sigmoid', 'tanh'}
    | {'hard_swish', 'hard_sigmoid', 'swish', 'silu', 'mish'}
)
# As ``activation_bits`` it says that activations are not quantized.
FLOAT_BITS: Final = 32
Bits = Union[int, Mapping[str, int]]


@dataclass(frozen=True)
class LowBitSettings:
    """What all quantizers of this kind are told; see :class:`~paddleslim_ng.quant.UniformQuantizer`."""

    weight_bits: Bits = 4
    activation_bits: int = FLOAT_BITS
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
        if self.activation_bits != FLOAT_BITS:
            check_bits(self.activation_bits, f'activation_bits, where it is not {FLOAT_BITS},')


class PlannedWeight(NamedTuple):
    """A weight that is quantized.

    Attributes:
        axis: of its output channels; None where it has none, or its readers do not agree.
        operators: what reads it.
    """

    axis: int | None
    operators: list[TargetOperator]


class LayerPlan(NamedTuple):
    """What is quantized.

    Attributes:
        weights: by name.
        skipped: by the first output of an operator whose weight is not quantized, why.
    """

    weights: dict[str, PlannedWeight]
    skipped: dict[str, str]


def plan_layers(graph: GraphWrapper, settings: LowBitSettings) -> LayerPlan:
    """Choose the weights: not those of the first and the last layer, and none that others read in float.

    Raises:
        ConfigError: nothing is left.
    """
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
    return LayerPlan({name: PlannedWeight(axes[name], operators) for name, operators in kept.items()}, skipped)


def _ends(every: Targets) -> dict[str, str]:
    names = list(dict.fromkeys(str(operator.weight) for operator in every.operators))
    ends = {} if not names else {names[0]: 'first', names[-1]: 'last'}
    return {name: f'it is the {place} layer (quantize_all_layers takes it)' for name, place in ends.items()}


def _reason(operator: TargetOperator, ends: Mapping[str, str]) -> str | None:
    if str(operator.weight) in ends:
        return ends[str(operator.weight)]
    weight = next(var for var in operator.op.all_inputs() if var.name() == operator.weight)
    return None if weight.dtype() == 'float32' else f'its weight holds {weight.dtype()}, and only float32 is quantized'


def bits_by_layer(wanted: Bits, plan: LayerPlan) -> dict[str, int]:
    """Return the width of each weight.

    Raises:
        ConfigError: what is wanted does not name exactly the weights that are quantized.
    """
    if not isinstance(wanted, Mapping):
        return dict.fromkeys(plan.weights, int(wanted))
    for name in wanted:
        if name not in plan.weights:
            raise ConfigError(f'weight_bits names {name!r}, which is not quantized{nearest_names(name, plan.weights)}')
    missing = [name for name in plan.weights if name not in wanted]
    if missing:
        raise ConfigError(f'weight_bits has no entry for {missing[0]!r}; name all of {list(plan.weights)}')
    return {name: int(wanted[name]) for name in plan.weights}


def weight_reads(operators: Iterable[TargetOperator]) -> list[tuple[VarWrapper, list[OpWrapper]]]:
    """Group operators by the variable through which they read a weight; PIR may have several of one name."""
    found: dict[int, tuple[VarWrapper, list[OpWrapper]]] = {}
    for operator in operators:
        var = next(var for var in operator.op.all_inputs() if var.name() == operator.weight)
        found.setdefault(id(var), (var, []))[1].append(operator.op)
    return list(found.values())


def activation_reads(graph: GraphWrapper) -> dict[str, tuple[VarWrapper, list[OpWrapper]]]:
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
