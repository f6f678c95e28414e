"""PIR inference programs as legacy ProgramDesc programs, which Paddle Lite and Paddle 2 read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import paddle

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.cloning import clone_program, cut_program
from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.core.pir_editor import PirEditor
from paddleslim_ng.core.translate_op import translate_directly
from paddleslim_ng.core.translate_rows import ROWS
from paddleslim_ng.core.translation_plan import LegacyOp, LegacyVar, TranslationPlan, UntranslatableError
from paddleslim_ng.errors import GraphError, UnsupportedOpError

__all__ = ['translate_program']


def translate_program(program: Any, feeds: Sequence[Any], fetches: Sequence[Any]) -> Any:
    """Translate the part of a program that leads from ``feeds`` to ``fetches`` into a legacy inference program.

    Training programs are cut to their forward part in test mode. Parameters and data keep their names; results have
    the stable names under which ``GraphWrapper`` shows them. The scope is neither read nor changed: the new program
    runs on the scope of the old one.

    Args:
        program: a program of either IR, or a GraphWrapper; a legacy one is only cut.
        feeds: names, Variables or Values of the inputs.
        fetches: names, Variables or Values of the outputs.

    Returns:
        A legacy program without feed and fetch operators.

    Raises:
        GraphError: an unknown feed or fetch, or an input that is needed is not fed.
        UnsupportedOpError: some operators have no legacy counterpart; the message lists all of them.

    Example:
        >>> legacy = translate_program(program, ['image'], [logits])
        >>> slim.Executor().run(legacy, feed={'image': images}, fetch_list=[logits])
    """
    graph = GraphWrapper(clone_program(getattr(program, 'program', program), for_test=True))
    inputs = [graph.var(item).name() for item in feeds]
    outputs = [graph.var(item).name() for item in fetches]
    part = cut_program(graph.program, inputs, outputs)
    if graph.ir == 'legacy':
        return part
    graph = GraphWrapper(part)
    return _build(_plan(graph, PirEditor.of(graph), [graph.var(name) for name in outputs]))


def _plan(graph: GraphWrapper, editor: PirEditor, fetches: list[VarWrapper]) -> TranslationPlan:
    wanted = {var.name() for var in graph.vars() if var._consumers} | {var.name() for var in fetches}
    plan = TranslationPlan(editor, (var.name() for var in graph.vars()), wanted)
    for var in graph.vars():
        _plan_source(var, plan)
    ops = _operators(graph, fetches)
    kept = {id(var) for var in fetches}
    for op in ops:
        _plan_overwriting(op, kept, plan)
    refusals: list[tuple[OpWrapper, str]] = []
    for op in ops:
        try:
            _translate(op, plan)
        except UntranslatableError as reason:
            refusals.append((op, str(reason)))
    if refusals:
        raise _unsupported(refusals)
    plan.drop_unused(var.name() for var in fetches)
    return plan


def _plan_source(var: VarWrapper, plan: TranslationPlan) -> None:
    """Plan a parameter, a persistable variable or an input."""
    if var.is_parameter():
        role = 'parameter'
    elif var.persistable():
        role = 'state'
    elif var.is_data:
        role = 'data'
    else:
        return
    trainable = bool(getattr(var.raw, 'trainable', True))
    plan.vars[var.name()] = LegacyVar(var.name(), var.shape(), var.dtype(), role, trainable)


def _plan_overwriting(op: OpWrapper, kept: set[int], plan: TranslationPlan) -> None:
    """Let an operator write where it read, where that can be seen: in what persists, or is read afterwards.

    Batch norm's statistics are such a case. Elsewhere the result becomes a variable of its own.
    """
    sources, results = op.raw.operands_source(), op.raw.results()
    for result, operand in paddle_compat.inplace_results(op.raw).items():
        target, written = plan.editor.wrapper_of(sources[operand]), plan.editor.wrapper_of(results[result])
        if target is None or written is None:
            continue
        read_later = any(reader._idx > op._idx for reader in target._consumers)
        if target.persistable() or id(target) in kept or read_later:
            plan.alias(written, target)


def _operators(graph: GraphWrapper, fetches: Iterable[VarWrapper]) -> list[OpWrapper]:
    """Return the operators to translate; a constant that is fetched but not read is not among those of the graph."""
    ops = graph.ops()
    listed = {id(op) for op in ops}
    constants = [op for var in fetches for op in var._producers if id(op) not in listed]
    return list({id(op): op for op in (*constants, *ops)}.values())


def _translate(op: OpWrapper, plan: TranslationPlan) -> None:
    name = op.raw.name()
    if not name.startswith('pd_op.'):
        raise UntranslatableError('an operator of another dialect')
    row = ROWS.get(name[len('pd_op.') :].rstrip('_'))
    if row is not None:
        row(op, plan)
    else:
        translate_directly(op, plan)


def _unsupported(refusals: list[tuple[OpWrapper, str]]) -> UnsupportedOpError:
    counts = Counter(op.type() for op, _ in refusals)
    first = {op.type(): (op, reason) for op, reason in reversed(refusals)}
    lines = [
        f'{kind} ({count}x, first makes {_made_by(first[kind][0])!r}): {first[kind][1]}'
        for kind, count in counts.items()
    ]
    kind = next(iter(counts))
    return UnsupportedOpError(
        f'{len(counts)} kinds of operators cannot be translated to a legacy program: {"; ".join(lines)}',
        op=kind,
        variable=_made_by(first[kind][0]),
    )


def _made_by(op: OpWrapper) -> str | None:
    return next((var.name() for var in op.all_outputs()), None)


def _build(plan: TranslationPlan) -> Any:
    with ir_mode(pir=False):
        program = paddle.static.Program()
        block = program.global_block()
        for var in plan.vars.values():
            _add_variable(block, var)
        for op in plan.ops:
            _add_operator(block, op)
        for var in plan.vars.values():
            _keep_shape(block, var)
    return program


def _keep_shape(block: Any, var: LegacyVar) -> None:
    """Let a result have the sizes that it had in PIR, where legacy shape inference knows less."""
    desc = block.var(var.name).desc
    if var.role == 'result' and len(desc.shape()) == len(var.shape):
        desc.set_shape(list(var.shape))


def _add_variable(block: Any, var: LegacyVar) -> None:
    dtype = paddle_compat.legacy_dtype(var.dtype)
    if var.role == 'parameter':
        block.create_parameter(name=var.name, shape=list(var.shape), dtype=dtype, trainable=var.trainable)
        return
    block.create_var(
        name=var.name,
        shape=list(var.shape),
        dtype=dtype,
        persistable=var.role == 'state',
        stop_gradient=True,
        is_data=var.role == 'data',
        need_check_feed=var.role == 'data',
    )


def _add_operator(block: Any, op: LegacyOp) -> None:
    def found(slots: Any) -> dict[str, list[Any]]:
        return {slot: [block.var(name) for name in names] for slot, names in slots.items()}

    attrs = {**op.attrs, **{key: block.var(name) for key, name in op.attr_variables.items()}}
    try:
        block.append_op(type=op.type, inputs=found(op.inputs), outputs=found(op.outputs), attrs=attrs)
    except (ValueError, TypeError, RuntimeError) as error:
        raise GraphError(
            f'Paddle refuses the translated operator {op.type} that makes '
            f'{next(iter(op.outputs.values()))}: {str(error).strip().splitlines()[-1]}'
        ) from error
