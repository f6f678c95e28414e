"""Copying one program into another, its names under a prefix and its inputs shared: teachers, and peers that learn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import paddle

from paddleslim_ng.core import merging_legacy
from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import GraphError

__all__ = ['MergedProgram', 'copy_settings', 'merge_program']

_SETTINGS = ('regularizer', 'optimize_attr', 'need_clip', 'do_model_average')


@dataclass(frozen=True)
class MergedProgram:
    """What :func:`merge_program` copied.

    Attributes:
        prefix: what the copied names begin with.
        inputs: ``{input of the source: name of that input in the target}``.
        names: ``{name in the source: name in the target}`` of all that was copied, inputs included.
        state: names in the source of the parameters and other persistable variables that were copied.
        left_out: operators of the source that need an input which was not given.
        undo: takes the copy out again, as long as nothing else reads it.
    """

    prefix: str
    inputs: Mapping[str, str]
    names: Mapping[str, str]
    state: tuple[str, ...]
    left_out: tuple[OpWrapper, ...]
    undo: Callable[[], None] = field(repr=False)


def merge_program(
    target: GraphWrapper,
    source: GraphWrapper,
    inputs: Mapping[str, str],
    prefix: str,
    *,
    frozen: bool,
    own_inputs: Collection[str] = (),
) -> MergedProgram:
    """Copy what ``source`` computes from some inputs to the front of ``target``; the scope is left alone.

    Args:
        target: changed in place. Wrap the program anew afterwards.
        source: a program of the same IR, without backward and optimizer operators; it stays as it is.
        inputs: ``{data input of the source: data input of the target}``. Whatever needs other inputs is left out.
        prefix: for all names that are copied.
        frozen: nothing that is copied gets a gradient, and its operators are marked as a teacher's. Give a source in
            test mode.
        own_inputs: those keys of ``inputs`` that are inputs of the copy alone; the target must not have their names.

    Returns:
        What was copied.

    Raises:
        GraphError: the IRs differ, a name is unknown or taken, or nothing can be computed from the inputs.
    """
    if target.ir != source.ir:
        raise GraphError(f'cannot copy a {source.ir} program into a {target.ir} program')
    if not prefix:
        raise GraphError('a merged program needs a prefix for its names')
    kept, left_out = _computable(source, inputs)
    if not kept:
        raise GraphError(f'nothing of the program to be merged can be computed from {sorted(inputs)}')
    _check_names(target, source, kept, inputs, prefix, own_inputs)
    state = tuple(dict.fromkeys(var.name() for op in kept for var in op.all_inputs() if _outlives(var)))
    with matching_ir(target.program), paddle.static.program_guard(target.program):
        if target.ir == 'legacy':
            names, undo = merging_legacy.copy_into(target, source, kept, inputs, prefix, frozen)
        else:
            from paddleslim_ng.core import merging_pir

            names, undo = merging_pir.copy_into(target, source, kept, inputs, prefix, frozen)
        if not frozen:
            copy_settings(source, target, state, names)
    return MergedProgram(prefix, dict(inputs), names, state, tuple(left_out), undo)


def copy_settings(source: GraphWrapper, target: GraphWrapper, state: Iterable[str], names: Mapping[str, str]) -> None:
    """Give copied parameters the regularizer, learning rate factor and so on of the originals; Paddle forgets them."""
    merged = GraphWrapper(target.program)
    for name in state:
        old = source.var(name)
        if old.is_parameter():
            new = merged.var(names[name]).raw
            for key in _SETTINGS:
                if hasattr(old.raw, key):
                    setattr(new, key, getattr(old.raw, key))


def _computable(source: GraphWrapper, inputs: Iterable[str]) -> tuple[list[OpWrapper], list[OpWrapper]]:
    """Return the operators that need no data but ``inputs``, with what they read, and those that need more."""
    fed = {id(source.var(name)) for name in inputs}
    depends: set[int] = set(fed)
    missing: set[int] = set()
    kept: list[OpWrapper] = []
    left_out: list[OpWrapper] = []
    for op in source.ops():
        reads = op.all_inputs()
        if any(id(var) in missing or (id(var) not in fed and _is_open(var)) for var in reads):
            missing.update(id(var) for var in op.all_outputs() if not _outlives(var))
            left_out.append(op)
        elif any(id(var) in depends for var in reads):
            depends.update(id(var) for var in op.all_outputs() if not _outlives(var))
            kept.append(op)
    pending, wanted = list(kept), {id(op): op for op in kept}
    while pending:
        for op in source.pre_ops(pending.pop()):
            if id(op) not in wanted:
                wanted[id(op)] = op
                pending.append(op)
    return sorted(wanted.values(), key=lambda op: op.idx()), left_out


def _is_open(var: VarWrapper) -> bool:
    """Tell whether a variable has to be fed."""
    return not var.inputs() and not _outlives(var)


def _outlives(var: VarWrapper) -> bool:
    return var.persistable() or var.is_parameter()


def _check_names(
    target: GraphWrapper,
    source: GraphWrapper,
    kept: Iterable[OpWrapper],
    inputs: Mapping[str, str],
    prefix: str,
    own_inputs: Collection[str],
) -> None:
    for old, name in inputs.items():
        if old not in own_inputs:
            target.var(name)
        elif target.has_var(name):
            raise GraphError(f'the program already has a variable {name!r}')
    for op in kept:
        for var in (*op.all_inputs(), *op.all_outputs()):
            if var.name() not in inputs and target.has_var(prefix + var.name()):
                raise GraphError(
                    f'the program already has a variable {prefix + var.name()!r}: merge under another prefix'
                )
