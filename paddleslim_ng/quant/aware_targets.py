"""Which operators of a program are quantized while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paddleslim_ng.core import GraphWrapper, VarWrapper, clone_program
from paddleslim_ng.errors import GraphError
from paddleslim_ng.quant.aware_records import recorded
from paddleslim_ng.quant.building import without_shared_weights
from paddleslim_ng.quant.targets import TargetOperator, Targets, find_targets

if TYPE_CHECKING:
    from paddleslim_ng.quant.aware_config import AwareConfig

__all__ = ['aware_targets']

_HALVES = frozenset({'float16', 'bfloat16'})


def aware_targets(program: Any, config: AwareConfig) -> Targets:
    """Find the operators of a program to quantize in training.

    The forward part decides alone, so that a training program and its evaluation program have the same.

    Raises:
        GraphError: the program is quantized already, trains in half precision, or has nothing to quantize.
        ConfigError: a type of operators that no row covers.
    """
    graph = GraphWrapper(clone_program(program, for_test=True))
    if recorded(graph):
        raise GraphError('the program is quantized already')
    targets = find_targets(
        graph,
        types=config.types,
        full=config.full,
        skip_tensor_list=config.skip_tensor_list,
        not_quant_pattern=config.not_quant_pattern,
    )
    _refuse_halves(graph, targets)
    kept: list[TargetOperator] = []
    skipped = dict(targets.skipped)
    for target in targets.operators:
        reason = _obstacle(graph, target)
        if reason is None:
            kept.append(target)
        else:
            skipped[target.output] = reason
    found = without_shared_weights(kept, skipped, graph)
    if not found.operators:
        why = '; '.join(f'{output}: {reason}' for output, reason in list(found.skipped.items())[:5])
        raise GraphError(f'the program has nothing to quantize ({why or "no operators of the types asked for"})')
    return found


def _obstacle(graph: GraphWrapper, target: TargetOperator) -> str | None:
    for name in target.tensors:
        var = graph.var(name)
        if var.dtype() != 'float32':
            return f'{name!r} holds {var.dtype()}, and only float32 is quantized'
        if name != target.weight and len(var.inputs()) > 1:
            return f'its input {name!r} is written more than once'
    return None


def _refuse_halves(graph: GraphWrapper, targets: Targets) -> None:
    """Mixed precision has cast what quantizable operators read: the grid would be rounded once more."""
    for op in graph.ops():
        if op.type() == 'cast' and any(_is_half(var) for var in op.all_outputs()):
            readers = [reader for var in op.all_outputs() for reader in var.outputs()]
            if any(var.is_parameter() for var in op.all_inputs()) or readers:
                raise GraphError(
                    f'the program computes in half precision ({op.all_outputs()[0].name()!r} is a cast of '
                    f'{op.all_inputs()[0].name()!r}): quantize the single-precision program'
                )
    for target in targets.operators:
        for name in target.tensors:
            if _is_half(graph.var(name)):
                raise GraphError(f'{name!r} is half precision: quantize the single-precision program')


def _is_half(var: VarWrapper) -> bool:
    return var.dtype() in _HALVES
