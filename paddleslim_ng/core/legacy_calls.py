"""How legacy operators are built: checked against Paddle's own declarations, with the helper outputs that they need.

:class:`~paddleslim_ng.core.insertion.Insertion` builds with it; :mod:`~paddleslim_ng.core.pir_calls` is the other
half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import VarWrapper
from paddleslim_ng.core.pir_calls import PIR_CALLS, check_names, is_floating
from paddleslim_ng.errors import UnsupportedOpError

__all__ = ['build', 'check', 'known']


def known(type: str) -> bool:
    """Tell whether this Paddle has a legacy operator of this type."""
    return paddle_compat.operator_proto(type) is not None


def check(type: str, inputs: Mapping[str, Any], attrs: Mapping[str, Any]) -> None:
    """Check a call before anything is built.

    Raises:
        GraphError: a slot or attribute does not exist.
        UnsupportedOpError: there is no such operator, or it has several results and no row of the table of calls says
            which one is wanted.
    """
    proto = paddle_compat.operator_proto(type)
    if proto is None:
        raise UnsupportedOpError(f'this Paddle has no operator {type!r}', op=type)
    check_names(type, 'slot', inputs, [item.name for item in proto.inputs])
    check_names(type, 'attribute', attrs, [item.name for item in proto.attrs])
    outputs = _results(proto)
    if len(outputs) != 1 and _wanted(proto) is None:
        raise UnsupportedOpError(f'cannot insert {type!r}: it has the results {outputs}, not one', op=type)


def build(
    block: Any,
    place: int,
    type: str,
    inputs: Mapping[str, Sequence[VarWrapper]],
    attrs: Mapping[str, Any],
    result: Any = None,
    *,
    synchronize: bool = True,
) -> tuple[Any, Any]:
    """Build an operator and return it with its result.

    Args:
        block: block of a legacy program.
        place: position of the operator in it.
        type: a type that :func:`check` has let pass.
        inputs: ``{slot: variables}``.
        attrs: attributes; element types in numpy's spelling.
        result: existing variable that takes the result, or None for a new one. Through a new one gradients pass where
            they pass through one of the inputs, and it holds floating-point numbers.
        synchronize: look first for operators that Paddle holds and Python has not seen yet, which takes time in
            proportion to the program.
    """
    proto = paddle_compat.operator_proto(type)
    given = [var for group in inputs.values() for var in group]
    values = {key: int(paddle_compat.legacy_dtype(v)) if key.endswith('dtype') else v for key, v in attrs.items()}
    if type == 'cast' and given:
        values.setdefault('in_dtype', int(paddle_compat.legacy_dtype(given[0].dtype())))
    made = result
    if made is None:
        dtype = attrs.get('out_dtype', attrs.get('dtype', given[0].dtype() if given else 'float32'))
        made = _create(block, f'{type}_inserted', dtype, all(var.raw.stop_gradient for var in given))
    helpers = {name: [_create(block, f'{type}_{name.lower()}', given[0].dtype(), True)] for name in _helpers(proto)}
    insert = block._insert_op if synchronize else block._insert_op_without_sync
    op = insert(
        place,
        type=type,
        inputs={key: [var.raw for var in group] for key, group in inputs.items()},
        outputs={**helpers, _wanted(proto) or _results(proto)[0]: [made]},
        attrs=values,
    )
    if result is None and not is_floating(paddle_compat.dtype_name(made.dtype)):
        made.stop_gradient = True
    return op, made


def _create(block: Any, stem: str, dtype: str, stops: bool) -> Any:
    name = paddle_compat.unused_name(block, stem)
    return block.create_var(name=name, dtype=paddle_compat.legacy_dtype(dtype), stop_gradient=stops)


def _results(proto: Any) -> list[str]:
    return [item.name for item in proto.outputs if not item.intermediate and not item.extra]


def _helpers(proto: Any) -> list[str]:
    """Return the outputs that only the gradient operator reads, such as ``XShape``, or that are not wanted."""
    wanted = _wanted(proto)
    return [
        item.name
        for item in proto.outputs
        if not item.dispensable and (item.intermediate or (wanted is not None and item.name != wanted))
    ]


def _wanted(proto: Any) -> str | None:
    """Return the one of several results that is wanted."""
    call = PIR_CALLS.get(proto.type)
    return call.result[0] if call is not None and call.result is not None else None
