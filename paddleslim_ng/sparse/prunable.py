"""Which parameters of a program are pruned weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from paddleslim_ng.core import GraphWrapper, VarWrapper
from paddleslim_ng.core.marks import FAKE_QUANTIZER, mark_of
from paddleslim_ng.core.teachers import own_parameters
from paddleslim_ng.errors import ConfigError, nearest_names

__all__ = ['conv1x1_skip_params', 'get_skip_params', 'is_conv1x1', 'prunable_parameters']

SkipParams = Callable[[Any], Iterable[str]]
_FLOATS = frozenset({'float16', 'bfloat16', 'float32', 'float64'})


def get_skip_params(program: Any) -> set[str]:
    """Return the names that are not pruned by default.

    These are what normalization reads, all parameters of one axis, codebooks of quantized weights, and what is no part
    of the student: the parameters of merged teachers, and those of adapters in distillation losses.

    Args:
        program: a program of either IR.
    """
    graph = GraphWrapper(program)
    skipped = {
        var.name()
        for op in graph.ops()
        if 'norm' in op.type() and 'grad' not in op.type() and not op.is_opt_op()
        for var in op.all_inputs()
        if var.is_parameter()
    }
    matrices = {var.name() for var in own_parameters(graph) if len(var.shape()) > 1 and not _serves_a_quantizer(var)}
    return skipped | ({var.name() for var in graph.all_parameters()} - matrices)


def _serves_a_quantizer(parameter: VarWrapper) -> bool:
    """Tell whether nothing but the quantizer of another tensor reads a parameter."""
    readers = [op for op in parameter.outputs() if not (op.is_bwd_op() or op.is_opt_op())]
    return bool(readers) and all(mark_of(op, FAKE_QUANTIZER) not in (None, parameter.name()) for op in readers)


def conv1x1_skip_params(program: Any) -> set[str]:
    """Return the names of all parameters but the filters of 1x1 convolutions."""
    return {var.name() for var in GraphWrapper(program).all_parameters() if not is_conv1x1(var)}


def is_conv1x1(parameter: VarWrapper) -> bool:
    """Tell whether a parameter has the shape of a 1x1 filter."""
    return len(parameter.shape()) == 4 and parameter.shape()[2:] == (1, 1)


def prunable_parameters(graph: GraphWrapper, skip_params_func: SkipParams) -> list[VarWrapper]:
    """Return the parameters that are pruned, in program order; moving statistics, teachers and adapters never are.

    Args:
        graph: a wrapped program.
        skip_params_func: gives the names of what is not pruned, for the program.

    Raises:
        ConfigError: ``skip_params_func`` returns something else than names, or leaves nothing to prune.
    """
    with _listing_parameters(graph.program):
        skipped = skip_params_func(graph.program)
    if isinstance(skipped, str) or not all(isinstance(name, str) for name in skipped):
        raise ConfigError('skip_params_func returns a set of names of parameters')
    known = {var.name(): var for var in own_parameters(graph)}
    names = set(skipped) | {
        var.name()
        for op in graph.ops()
        for slot in ('Mean', 'Variance')
        for var in op.inputs(slot)
        if 'norm' in op.type()
    }
    found = [
        var for name, var in known.items() if name not in names and var.dtype() in _FLOATS and len(var.shape()) > 0
    ]
    if not found:
        example = next(iter(known), '')
        raise ConfigError(
            f'nothing is left to prune: all {len(known)} parameters are skipped or not of a floating-point type'
            f'{nearest_names(example, names) if known and not names & set(known) else ""}'
        )
    return found


@contextmanager
def _listing_parameters(program: Any) -> Iterator[None]:
    """Give a PIR program the method ``all_parameters`` inside; functions written for legacy programs call it."""
    if hasattr(program, 'all_parameters'):
        yield
        return
    program.all_parameters = program.global_block().all_parameters
    try:
        yield
    finally:
        del program.all_parameters
