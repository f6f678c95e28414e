"""Legacy inference programs as PIR programs, through Paddle's own translator, with the names that it drops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import paddle

from paddleslim_ng.core import naming, paddle_compat
from paddleslim_ng.core.cloning import clone_program, cut_program
from paddleslim_ng.core.gradient_outputs import add_gradient_outputs
from paddleslim_ng.core.graph_wrapper import GraphWrapper
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.core.legacy_protos import declaration_of
from paddleslim_ng.errors import GraphError, UnsupportedOpError

__all__ = ['translate_to_pir']

# Operators that Paddle translates, and whose translation computes something else.
_WRONG_IN_PIR = {'dequantize_linear': "Paddle 3 runs PIR's as quantize_linear"}


def translate_to_pir(program: Any, feeds: Sequence[Any], fetches: Sequence[Any]) -> Any:
    """Translate the part of a program that leads from ``feeds`` to ``fetches`` into a PIR inference program.

    The counterpart of :func:`paddleslim_ng.core.translate_program`. Names of parameters, data and results are kept.
    The scope is neither read nor changed.

    Args:
        program: a program of either IR, or a GraphWrapper; a PIR one is only cut.
        feeds: names, Variables or Values of the inputs.
        fetches: names, Variables or Values of the outputs.

    Returns:
        A PIR program.

    Raises:
        GraphError: this Paddle has no PIR, an unknown feed or fetch, or Paddle's translator refuses.
        UnsupportedOpError: PIR lacks some of the operators; the message lists all of them.
    """
    if not paddle_compat.has_pir():
        raise GraphError(f'paddle {paddle.__version__} has no PIR: translating to it needs Paddle 3.0 or later')
    graph = GraphWrapper(clone_program(getattr(program, 'program', program), for_test=True))
    inputs = [graph.var(item).name() for item in feeds]
    outputs = [graph.var(item).name() for item in fetches]
    part = cut_program(graph.program, inputs, outputs)
    if graph.ir == 'pir':
        return part
    _refuse_unknown(part)
    add_gradient_outputs(part)  # what is missing here is null in PIR, and crashes Paddle's backward pass
    written = _mark(part, inputs, outputs)
    return _tidied(_translated(part), written)


def _refuse_unknown(program: Any) -> None:
    counts = Counter(op.type for op in program.global_block().ops)
    wrong = [kind for kind in _WRONG_IN_PIR if counts[kind]]
    unknown = [*paddle_compat.unknown_to_pir(program), *wrong]
    if not unknown:
        return
    reasons = {kind: f': {reason}' for kind, reason in _WRONG_IN_PIR.items()}
    listed = ', '.join(f'{kind} ({counts[kind]}x{reasons.get(kind, "")})' for kind in unknown)
    raise UnsupportedOpError(f'PIR has no counterpart of these operators: {listed}', op=unknown[0])


def _mark(program: Any, feeds: list[str], fetches: list[str]) -> set[str]:
    """Let every result be fetched, so that the translation shows which value it became.

    Returns:
        Names of parameters that operators write, such as the statistics of batch norm.
    """
    block = program.global_block()
    for name in feeds:
        if block.has_var(name):  # an input that no output depends on is gone
            paddle_compat.expect_fed(block.var(name))
    results: dict[str, None] = {}
    written = set()
    for op in block.ops:
        declared = declaration_of(op.type)
        for slot in op.output_names:
            kept = declared is not None and slot in declared.outputs and not declared.outputs[slot].scratch
            for name in op.output(slot):
                if block.var(name).persistable:
                    written.add(name)
                elif kept:
                    results[name] = None
    ends = [name for name in fetches if block.has_var(name) and not block.var(name).persistable and name not in feeds]
    with ir_mode(pir=False):
        paddle_compat.add_fetch_operators(program, dict.fromkeys((*results, *ends)))
    return written


def _translated(program: Any) -> Any:
    with ir_mode(pir=False):
        try:
            return paddle_compat.pir_from_legacy(program)
        except (ValueError, TypeError, RuntimeError, OSError, IndexError, KeyError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise GraphError(f'Paddle cannot translate this program to PIR: {reason.strip()}') from error


def _tidied(program: Any, written: set[str]) -> Any:
    """Take the fetches out, name the values, and give vectors and parameters the form of programs built as PIR."""
    _split_vectors(program)
    block = program.global_block()
    names = []
    for op in block.ops:
        if op.name() == 'pd_op.fetch':
            names.append((op.operand_source(0), op.str_attr('name')))
            block.remove_op(op)
        elif op.name() == 'builtin.parameter':
            value = op.result(0)
            value.is_parameter = True
            value.persistable = True
            value.trainable = op.str_attr('parameter_name') not in written
    naming.adopt_names(program, names)
    return program


def _split_vectors(program: Any) -> None:
    """Replace operators that take single tensors out of a vector by the one that takes it apart."""
    block = program.global_block()
    takers: dict[int, list[Any]] = {}
    for op in block.ops:
        if op.name() == 'builtin.slice':
            takers.setdefault(op.operand_source(0).hash(), []).append(op)
    for group in takers.values():
        with ir_mode(pir=True):
            parts = paddle_compat.split_vector(group[0].operand_source(0))
        for op in group:
            op.result(0).replace_all_uses_with(parts[int(op.attrs()['index'])])
            block.remove_op(op)
