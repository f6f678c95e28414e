"""Program files of both formats, read with every fault as a typed error."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.errors import DataError, UnsupportedOpError
from paddleslim_ng.runtime.model_files import format_of
from paddleslim_ng.runtime.pir_json import check_pir_json

__all__ = ['ReadProgram', 'read_program']

_PADDLE_ERRORS = (ValueError, RuntimeError, TypeError, IndexError, KeyError, OSError, MemoryError)


class ReadProgram(NamedTuple):
    """What a program file holds.

    Attributes:
        program: with its feed and fetch operators.
        feeds: names of the inputs.
        fetches: Variables or Values of the outputs.
        state: names of parameters and other persistable tensors.
        unkept: names of parameters that are in no file and start as zeros.
    """

    program: Any
    feeds: list[str]
    fetches: list[Any]
    state: list[str]
    unkept: list[str]


def read_program(path: Path) -> ReadProgram:
    """Read a program file; its content tells the format.

    Raises:
        DataError: the file cannot be read, is damaged or truncated, or has no outputs.
        UnsupportedOpError: it has operators that this Paddle does not know; all of them are listed.
        GraphError: a PIR program on a Paddle without PIR.
    """
    try:
        with open(path, 'rb') as file:
            start = file.read(64)
    except OSError as error:
        raise DataError(f'cannot read {path}: {error.strerror}') from error
    found = _read_pir(path) if path.suffix == '.json' or format_of(start) == 'pir' else _read_legacy(path)
    if not found.fetches:
        raise DataError(f'{path} is a program without fetch operators, and no inference model')
    return found


def _read_pir(path: Path) -> ReadProgram:
    with ir_mode(pir=True):
        check_pir_json(path)
        try:
            program = paddle_compat.read_pir(str(path))
        except _PADDLE_ERRORS as error:
            raise _damaged(path, error) from error
        feeds, fetches = [], []
        for op in program.global_block().ops:
            name = op.name()
            _check_operator(path, op)
            if name == 'pd_op.fetch':
                fetches.extend(op.operands_source())
            elif name == 'pd_op.feed' or (name == 'pd_op.data' and not op.result(0).persistable):
                feeds.append(str(op.str_attr('name')))
        return ReadProgram(
            program, feeds, fetches, paddle_compat.pir_state(program), paddle_compat.pir_state(program, kept=False)
        )


def _check_operator(path: Path, op: Any) -> None:
    """Check that an operator has the attributes and operands that its kernel will ask for."""
    if not op.name().startswith('pd_op.') or op.num_regions():
        return
    missing = sorted(set(op.get_attr_names()) - set(op.attrs()))
    wanted = len(op.get_input_names())
    if missing or op.num_operands() != wanted:
        found = f'no attributes {missing}' if missing else f'{op.num_operands()} operands instead of {wanted}'
        raise DataError(f'{path} is damaged, or of another version of Paddle: an operator {op.name()} has {found}')


def _read_legacy(path: Path) -> ReadProgram:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f'cannot read {path}: {error.strerror}') from error
    if not content:
        raise DataError(f'{path} is empty')
    with ir_mode(pir=False):
        try:
            program = paddle_compat.parse_legacy(content)
        except _PADDLE_ERRORS as error:
            raise _damaged(path, error) from error
        _check_legacy(path, program)
        block = program.global_block()
        fetches = [block.var(name) for name in program.desc.get_fetch_target_names()]
        return ReadProgram(
            program, list(program.desc.get_feed_target_names()), fetches, paddle_compat.legacy_state(program), []
        )


def _check_legacy(path: Path, program: Any) -> None:
    ops = [op for block in program.blocks for op in block.ops]
    unknown = Counter(op.type for op in ops if paddle_compat.operator_proto(op.type) is None)
    if unknown:
        listed = ', '.join(f'{kind} ({count}x)' for kind, count in unknown.items())
        raise UnsupportedOpError(
            f'{path} has operators that this Paddle does not know: {listed}', op=next(iter(unknown))
        )
    for block in program.blocks:
        for op in block.ops:
            for name in (*op.input_arg_names, *op.output_arg_names):
                if name != '@EMPTY@' and block._find_var_recursive(name) is None:
                    raise DataError(f'{path} is damaged: the operator {op.type} uses {name!r}, which is not declared')


def _damaged(path: Path, error: Exception) -> DataError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return DataError(f'{path} is damaged or truncated, or of another version of Paddle: {(lines or ["?"])[0]}')
