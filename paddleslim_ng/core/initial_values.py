"""What a startup program gives to parameters and state."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import GraphWrapper, VarWrapper
from paddleslim_ng.errors import GraphError

__all__ = ['add_initial_value', 'initial_values', 'initialized_names']


def initial_values(startup: GraphWrapper, names: Collection[str]) -> list[VarWrapper]:
    """Return the variables of a startup program that end in the named parameters, in program order.

    On the legacy IR they are the parameters themselves; on PIR, values that Paddle stores under the parameters' names
    where the program says so.

    Args:
        startup: a wrapped startup program.
        names: names of parameters; those that the program does not initialize are left out.
    """
    wanted = set(names)
    if startup.ir == 'legacy':
        return [var for var in startup.vars() if var.name() in wanted and var._producers]
    made = {var.raw.hash(): var for var in startup.vars()}
    stores = [op for op in startup.program.global_block().ops if op.name() == 'builtin.set_parameter']
    return [made[op.operand_source(0).hash()] for op in stores if op.str_attr('parameter_name') in wanted]


def initialized_names(startup: GraphWrapper) -> set[str]:
    """Return the names of the parameters and of the state that a startup program fills."""
    if startup.ir == 'legacy':
        return {var.name() for var in startup.vars() if var._producers}
    keys = {'builtin.set_parameter': 'parameter_name', 'builtin.shadow_output': 'output_name'}
    ops = startup.program.global_block().ops
    return {str(op.str_attr(keys[op.name()])) for op in ops if op.name() in keys}


def add_initial_value(startup: GraphWrapper, name: str, shape: Sequence[int], dtype: str, value: float) -> None:
    """Let a startup program fill a state, such as :func:`paddleslim_ng.core.insertion.add_state` adds, with a number.

    Args:
        startup: a wrapped startup program of the same IR; changed in place. Wrap it anew afterwards.
        name: of the state.
        shape: static shape.
        dtype: element type in numpy's spelling.
        value: the number.

    Raises:
        GraphError: the startup program has something of that name already, or its IR no such element type.
    """
    sizes = [int(n) for n in shape]
    if startup.has_var(name) or name in initialized_names(startup):
        raise GraphError(f'the startup program already has a variable {name!r}')
    if startup.ir == 'pir':
        paddle_compat.add_pir_initial_value(startup.program, name, sizes, value, paddle_compat.pir_dtype(dtype))
        return
    kind = paddle_compat.legacy_dtype(dtype)
    block = startup.program.global_block()
    var = block.create_var(name=name, shape=sizes, dtype=kind, persistable=True, stop_gradient=True)
    attrs = {'shape': sizes, 'dtype': int(kind), 'value': float(value)}
    block.append_op(type='fill_constant', outputs={'Out': [var]}, attrs=attrs)
