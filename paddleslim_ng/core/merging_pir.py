"""Copying the operators of one PIR program into another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

from paddleslim_ng.core import naming, paddle_compat
from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper
from paddleslim_ng.core.teachers import mark_teacher

__all__ = ['copy_into', 'raw_ancestors', 'rename_copy']

_NAMED_BY = {'builtin.parameter': 'parameter_name', 'pd_op.data': 'name'}


def copy_into(
    target: GraphWrapper,
    source: GraphWrapper,
    kept: Sequence[OpWrapper],
    inputs: Mapping[str, str],
    prefix: str,
    frozen: bool,
) -> tuple[dict[str, str], Callable[[], None]]:
    """Copy ``kept`` behind the inputs of ``target``, and return the names and what takes the copy out again.

    See :func:`paddleslim_ng.core.merging.merge_program`.
    """
    mapping = paddle_compat.new_ir_mapping()
    names, made = dict(inputs), []
    # Inputs of its own are copied like all else, under the names given.
    shared = {name: target.var(new).raw for name, new in inputs.items() if target.has_var(new)}
    for name, value in shared.items():
        mapping.add(source.var(name).raw, value)
    wanted = _raw_operators(source, kept, {source.var(name).raw.id for name in shared})
    with _behind(target, shared.values()):
        for op in source.program.global_block().ops:
            if op.id() in wanted:
                old_names = [naming.value_name(value) if value.initialized() else '' for value in op.results()]
                copy = paddle_compat.clone_pir_op(op, mapping)
                made.append(copy)
                for old, new in zip(op.results(), copy.results()):
                    mapping.add(old, new)
                rename_copy(copy, prefix, inputs)
                _settle(copy, frozen, prefix)
                names.update({old: inputs.get(old, prefix + old) for old in old_names if old})
    block = target.program.global_block()

    def undo() -> None:
        for op in reversed(made):
            block.remove_op(op)

    return names, undo


def _raw_operators(source: GraphWrapper, kept: Iterable[OpWrapper], stops: set[Any]) -> set[int]:
    """Return the ids of the operators to copy: ``kept``, what they read, and what takes their vectors apart."""
    values = [value for op in kept for value in op.raw.results() if value.initialized()]
    found = raw_ancestors(values, stops)
    for op in source.program.global_block().ops:
        if op.name() == 'builtin.split' and op.operand_source(0).get_defining_op().id() in found:
            found.add(op.id())
    return found


def raw_ancestors(values: Iterable[Any], stops: Collection[Any]) -> set[int]:
    """Return the ids of the PIR operators behind ``values``, constants and parameters included.

    Args:
        values: values of one program.
        stops: ids of values behind which nothing is looked for.
    """
    found: set[int] = set()
    queue = list(values)
    while queue:
        value = queue.pop()
        op = value.get_defining_op()
        if value.id in stops or op is None or op.id() in found:
            continue
        found.add(op.id())
        sources = paddle_compat.used_external_values(op) if op.num_regions() else op.operands_source()
        queue.extend(source for source in sources if source.initialized())
    return found


def _behind(target: GraphWrapper, shared: Iterable[Any]) -> AbstractContextManager[None]:
    """New operators go right behind the last of the shared inputs, before anything that keeps memory for gradients."""
    makers = {value.get_defining_op().id() for value in shared}
    block = target.program.global_block().ops
    last = max((place for place, op in enumerate(block) if op.id() in makers), default=-1)
    if last + 1 >= len(block):
        return nullcontext()
    return paddle_compat.insertion_before(block[last + 1])


def rename_copy(op: Any, prefix: str, inputs: Mapping[str, str] = MappingProxyType({})) -> None:
    """Put a prefix before the names of a copied operator, save for inputs that have other names."""
    key = _NAMED_BY.get(op.name())
    if key is not None:
        old = str(op.str_attr(key))
        op.set_str_attr(key, inputs.get(old, prefix + old))
    else:
        naming.prefix_names(op, prefix)


def _settle(op: Any, frozen: bool, prefix: str) -> None:
    """Let no gradient through a frozen operator, and mark it; parameters cannot carry a mark."""
    if not frozen:
        return
    for value in op.results():
        if value.initialized():
            value.stop_gradient = True
    if op.name() == 'builtin.parameter':
        op.result(0).trainable = False
    elif op.name() != 'pd_op.data' and not op.name().startswith('builtin.'):
        mark_teacher(op, prefix)
