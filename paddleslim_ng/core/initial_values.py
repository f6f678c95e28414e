"""What a startup program gives to parameters."""

from __future__ import annotations

from collections.abc import Collection

from paddleslim_ng.core.graph_wrapper import GraphWrapper, VarWrapper

__all__ = ['initial_values']


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
