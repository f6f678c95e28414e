"""Copies of programs: whole, for evaluation, or cut to what some outputs need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from paddleslim_ng.core import naming, paddle_compat
from paddleslim_ng.core.graph_wrapper import GraphWrapper
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.core.op_table import OPTIMIZER_OPS
from paddleslim_ng.core.removal import remove_operators
from paddleslim_ng.errors import GraphError

__all__ = ['clone_program', 'cut_program', 'forward_program', 'lookup']


def clone_program(program: Any, for_test: bool = False) -> Any:
    """Copy a program of either IR.

    Args:
        program: a legacy or PIR program.
        for_test: remove backward and optimizer operators and put dropout and batch norm in test mode, as
            ``Program.clone(for_test=True)`` does on legacy programs; PIR lacks that argument.

    Returns:
        The copy; names of variables and values are those of the original.

    Raises:
        GraphError: ``program`` is not a Paddle program, or Paddle cannot copy it.
    """
    if paddle_compat.is_legacy_program(program):
        with ir_mode(pir=False):  # in dynamic mode Paddle cannot copy a legacy program
            return _clone_legacy(program, for_test)
    if not paddle_compat.is_pir_program(program):
        raise GraphError(f'expected a paddle.static.Program of either IR, got {type(program).__name__}')
    naming.ensure_names(program)
    copy = program.clone()
    copy.random_seed = program.random_seed
    # A Value dies with its program; callers fetch Values of the original from the copy (``train, *_ = prune(train)``).
    copy.slim_original = program
    if hasattr(program, 'lr_scheduler') and not for_test:
        # Paddle's executor reads the schedule from the program, and Paddle's clone forgets it.
        copy.lr_scheduler = program.lr_scheduler
    if for_test:
        _drop_training_ops(copy)
        copy.set_is_test_attr()
        _set_test_mode_inside(copy.global_block().ops)
    return copy


def forward_program(program: Any) -> Any:
    """Copy the forward part of a program, in training mode: what ``minimize`` can be called on again.

    Args:
        program: a legacy or PIR program.

    Raises:
        GraphError: ``program`` is not a Paddle program, or Paddle cannot copy it.
    """
    copy = clone_program(program)
    if paddle_compat.is_pir_program(copy):
        _drop_training_ops(copy)
        return copy
    graph = GraphWrapper(copy)
    remove_operators(graph, [op for op in graph.ops() if op.is_bwd_op() or op.is_opt_op()], parameters=False)
    _forget_schedule(copy)
    return copy


def _clone_legacy(program: Any, for_test: bool) -> Any:
    try:
        copy = program.clone(for_test=for_test)
    except RuntimeError as error:
        raise GraphError(
            f'Paddle cannot clone this program{" for test" if for_test else ""}; where the optimizer put control flow '
            f'into it, clone before minimize: {error}'
        ) from error
    if for_test:
        block = copy.global_block()
        for index in reversed(range(len(block.ops))):
            # Paddle keeps average_accumulates, and what updates state where there is no gradient operator; the executor
            # makes feed and fetch operators of its own.
            op = block.ops[index]
            if op.type in OPTIMIZER_OPS or op.type in ('feed', 'fetch') or _trains(op):
                block._remove_op(index)
    return copy


def _trains(op: Any) -> bool:
    role = int(op.attr('op_role')) if op.has_attr('op_role') else 0
    return bool(role & (paddle_compat.BACKWARD_ROLE | paddle_compat.OPTIMIZE_ROLE))


def _set_test_mode_inside(ops: Iterable[Any]) -> None:
    """Set ``is_test`` within control flow, which Paddle's ``set_is_test_attr`` leaves alone."""
    for op in ops:
        if op.num_regions():
            for block in op.blocks():
                for inner in block.ops:
                    if inner.has_attr('is_test'):
                        inner.set_bool_attr('is_test', True)
                _set_test_mode_inside(block.ops)


def _drop_training_ops(program: Any) -> None:
    graph = GraphWrapper(program)
    dead = [op for op in graph.ops() if op.is_bwd_op() or op.is_opt_op()]
    if dead:
        _forget_schedule(program)
        remove_operators(graph, dead, parameters=False)
        _drop_unread_stacks(program)


def _forget_schedule(program: Any) -> None:
    """Let Paddle's executor not look for a learning rate that a program without optimizer does not have."""
    if hasattr(program, 'lr_scheduler'):
        del program.lr_scheduler


def _drop_unread_stacks(program: Any) -> None:
    """Remove what control flow kept for a backward pass that is no longer there; its kernels fail in test mode."""
    for op in program.global_block().ops:
        if op.name() == 'cf.stack_create' and op.result(2).use_empty():
            for push in op.result(1).all_used_ops():
                push.get_parent_block().remove_op(push)
            if _is_unread(op):
                program.global_block().remove_op(op)


def _is_unread(op: Any) -> bool:
    return all(value.use_empty() for value in op.results() if value.initialized())


def cut_program(program: Any, feeds: Sequence[Any], fetches: Sequence[Any]) -> Any:
    """Copy the part of a program that computes ``fetches`` from ``feeds``.

    Args:
        program: a program of either IR; for inference, give a clone made ``for_test``.
        feeds: names, Variables or Values of the inputs; an intermediate one becomes an input.
        fetches: names, Variables or Values of the outputs.

    Returns:
        A new program without anything else; names, parameters and attributes are those of the original.

    Raises:
        GraphError: a feed or fetch does not exist, nothing is to be fetched, or an input that is needed is not fed.
    """
    graph = GraphWrapper(program)
    inputs = [graph.var(item).name() for item in feeds]
    outputs = [graph.var(item).name() for item in fetches]
    if not outputs:
        raise GraphError('cut_program needs at least one variable to fetch')
    _check_inputs(graph, set(inputs), outputs)
    if graph.ir == 'legacy':
        with ir_mode(pir=False):
            return graph.program._prune_with_input(inputs, [graph.var(name).raw for name in outputs])
    return _cut_pir(graph.program, inputs, outputs)


def _check_inputs(graph: GraphWrapper, fed: set[str], outputs: list[str]) -> None:
    """Walk back from the outputs and name every input that is needed but not fed."""
    pending, seen, missing = [graph.var(name) for name in outputs], set(), set()
    while pending:
        var = pending.pop()
        if id(var) in seen or var.name() in fed:
            continue
        seen.add(id(var))
        if not var._producers and not var.persistable() and not var.is_parameter():
            missing.add(var.name())
        for op in var._producers:
            if not (op.is_bwd_op() or op.is_opt_op()) or var.name() in outputs:
                pending.extend(op.all_inputs())
    if missing:
        raise GraphError(f'{outputs} cannot be computed from {sorted(fed)} alone: {sorted(missing)} are needed, too')


def _cut_pir(program: Any, inputs: list[str], outputs: list[str]) -> Any:
    copy = clone_program(program)
    graph = GraphWrapper(copy)
    kept = set()
    for name in inputs:
        var = graph.var(name)
        if not var.is_data:
            paddle_compat.feed_instead(var.raw, name)
        else:
            kept.add(var.raw.get_defining_op().id())
    wanted = {graph.var(name).raw.hash() for name in outputs if name not in inputs}
    block = copy.global_block()
    doomed = []
    for op in reversed(block.ops):
        results = [value for value in op.results() if value.initialized()]
        sources = [value for value in _all_sources(op) if value.initialized()]
        written = [op.operand_source(index) for index in paddle_compat.inplace_operands(op)]
        needed = op.id() in kept or any(value.hash() in wanted for value in (*results, *written) if value.initialized())
        if needed:
            wanted.update(value.hash() for value in sources)
        else:
            doomed.append(op)
    for op in doomed:
        block.remove_op(op)
    _drop_unread_stacks(copy)
    if not any(op.is_opt_op() for op in GraphWrapper(copy).ops()):
        _forget_schedule(copy)
    return copy


def _all_sources(op: Any) -> list[Any]:
    return list(paddle_compat.used_external_values(op) if op.num_regions() else op.operands_source())


def lookup(program: Any, name_or_value: Any) -> Any:
    """Find the counterpart of a variable or value in ``program``.

    Args:
        program: a program, typically a clone or a pruned descendant of the one that ``name_or_value`` belongs to.
        name_or_value: a name, legacy Variable, PIR Value or VarWrapper.

    Returns:
        The legacy Variable or PIR Value of ``program`` with the same name.

    Raises:
        GraphError: ``program`` has no such variable; the nearest names are listed.
    """
    return GraphWrapper(program).var(name_or_value).raw
