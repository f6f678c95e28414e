"""How Paddle's functions for PIR operators are called, in canonical vocabulary: rows of data, and what reads them.

:class:`~paddleslim_ng.core.insertion.Insertion` builds with it; :mod:`~paddleslim_ng.core.legacy_calls` is the other
half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import VarWrapper
from paddleslim_ng.errors import GraphError, UnsupportedOpError, nearest_names

__all__ = ['PIR_CALLS', 'PirCall', 'arguments_of', 'check_names', 'is_floating', 'known']

_FLOATING = frozenset({'float16', 'bfloat16', 'float32', 'float64'})


class PirCall(NamedTuple):
    """How Paddle's function for a PIR operator is called.

    Attributes:
        name: PIR name without dialect.
        slots: canonical slots of the tensors, in the function's order; a leading ``*`` marks a list of tensors.
        attrs: ``{attribute: default}`` in the function's order; ``...`` where there is no default.
        operands: ``{optional canonical slot: attribute}`` whose place a tensor may take.
        result: canonical slot and place of the result that is wanted, where the operator has several.
    """

    name: str
    slots: tuple[str, ...]
    attrs: Mapping[str, Any] = {}
    operands: Mapping[str, str] = {}
    result: tuple[str, int] | None = None


_REDUCTION = {'dim': ..., 'keep_dim': False}
_POOL = {
    'ksize': ...,
    'strides': ...,
    'paddings': ...,
    'ceil_mode': False,
    'exclusive': True,
    'data_format': 'NCHW',
    'pooling_type': ...,
    'global_pooling': False,
    'adaptive': False,
    'padding_algorithm': 'EXPLICIT',
}
_CONV = {
    'strides': [1, 1],
    'paddings': [0, 0],
    'padding_algorithm': 'EXPLICIT',
    'dilations': [1, 1],
    'groups': 1,
    'data_format': 'NCHW',
}

PIR_CALLS: Mapping[str, PirCall] = {
    **{
        name: PirCall(name, ('X',))
        for name in ('abs', 'assign', 'ceil', 'exp', 'floor', 'log', 'log2', 'relu', 'sign', 'sqrt', 'square')
    },
    'all_reduce': PirCall('all_reduce', ('X',), {'ring_id': 0, 'reduce_type': 0}),
    # The arguments behind these differ between versions, and one too many ends the process.
    'arg_max': PirCall('argmax', ('X',), {'axis': ..., 'keepdims': False}),
    'argsort': PirCall('argsort', ('X',), {'axis': ..., 'descending': False, 'stable': False}, result=('Indices', 1)),
    'broadcast': PirCall('broadcast', ('X',), {'ring_id': 0, 'root': 0}),
    'cast': PirCall('cast', ('X',), {'out_dtype': ...}),
    'clip': PirCall('clip', ('X',), {'min': ..., 'max': ...}),
    'concat': PirCall('concat', ('*X',), {'axis': 0}),
    'conv2d': PirCall('conv2d', ('Input', 'Filter'), _CONV),
    'cumsum': PirCall('cumsum', ('X',), {'axis': ..., 'flatten': False, 'exclusive': False, 'reverse': False}),
    'depend': PirCall('depend', ('X', '*Dep')),
    'elementwise_add': PirCall('add', ('X', 'Y')),
    'elementwise_div': PirCall('divide', ('X', 'Y')),
    'elementwise_max': PirCall('maximum', ('X', 'Y')),
    'elementwise_min': PirCall('minimum', ('X', 'Y')),
    'elementwise_mul': PirCall('multiply', ('X', 'Y')),
    'elementwise_pow': PirCall('elementwise_pow', ('X', 'Y')),
    'elementwise_sub': PirCall('subtract', ('X', 'Y')),
    'fill_constant': PirCall('full', (), {'shape': ..., 'value': ..., 'dtype': ..., 'place': paddle_compat.ANY_PLACE}),
    'gather': PirCall('gather', ('X', 'Index'), {'axis': 0}),
    'histogram': PirCall('histogram', ('X',), {'weight': None, 'bins': ..., 'min': ..., 'max': ..., 'density': False}),
    'less_equal': PirCall('less_equal', ('X', 'Y')),
    'log_softmax': PirCall('log_softmax', ('X',), {'axis': -1}),
    'logsumexp': PirCall('logsumexp', ('X',), {'axis': ..., 'keepdim': False, 'reduce_all': False}),
    'lookup_table_v2': PirCall('embedding', ('Ids', 'W'), {'padding_idx': -1, 'sparse': False}),
    'matmul_v2': PirCall('matmul', ('X', 'Y'), {'trans_x': False, 'trans_y': False}),
    'mean': PirCall('mean_all', ('X',)),
    'one_hot_v2': PirCall('one_hot', ('X',), {'depth': ...}),
    'pool2d': PirCall('pool2d', ('X',), _POOL),
    'pow': PirCall('pow', ('X',), {'factor': ...}),
    'reduce_max': PirCall('max', ('X',), _REDUCTION),
    'reduce_mean': PirCall('mean', ('X',), _REDUCTION),
    'reduce_min': PirCall('min', ('X',), _REDUCTION),
    'reduce_sum': PirCall('sum', ('X',), {'dim': ..., 'out_dtype': None, 'keep_dim': False}),
    'reshape': PirCall('reshape', ('X',), {'shape': ...}),
    'reshape2': PirCall('reshape', ('X',), {'shape': ...}),
    'scale': PirCall('scale', ('X',), {'scale': 1.0, 'bias': 0.0, 'bias_after_scale': True}, {'ScaleTensor': 'scale'}),
    'scatter': PirCall('scatter', ('X', 'Ids', 'Updates'), {'overwrite': True}),
    'searchsorted': PirCall('searchsorted', ('SortedSequence', 'Values'), {'out_int32': False, 'right': False}),
    'slice': PirCall(
        'slice', ('Input',), {'axes': ..., 'starts': ..., 'ends': ..., 'infer_flags': ..., 'decrease_axis': ...}
    ),
    'softmax': PirCall('softmax', ('X',), {'axis': -1}),
    'sum': PirCall('add_n', ('*X',)),
    'tile': PirCall('tile', ('X',), {'repeat_times': ...}),
    'transpose2': PirCall('transpose', ('X',), {'axis': ...}),
    'unsqueeze2': PirCall('unsqueeze', ('X',), {'axes': ...}),
    'where': PirCall('where', ('Condition', 'X', 'Y')),
    'where_index': PirCall('nonzero', ('Condition',)),
}


def known(type: str) -> bool:
    """Tell whether this Paddle builds a PIR operator of this canonical type, and a row says how."""
    return type in PIR_CALLS and paddle_compat.pir_builds(PIR_CALLS[type].name)


def is_floating(dtype: str) -> bool:
    """Tell whether an element type, as numpy spells it, is one that gradients exist for."""
    return dtype in _FLOATING


def arguments_of(
    type: str, inputs: Mapping[str, Sequence[VarWrapper]], attrs: Mapping[str, Any]
) -> tuple[PirCall, list[Any]]:
    """Check a call in canonical vocabulary, and return it with the arguments of Paddle's function.

    Raises:
        GraphError: a slot or attribute does not exist or is missing.
        UnsupportedOpError: no such operator can be built.
    """
    if not known(type):
        raise UnsupportedOpError(
            f'cannot insert {type!r} on PIR; known: {", ".join(sorted(PIR_CALLS))}{nearest_names(type, PIR_CALLS)}',
            op=type,
        )
    call = PIR_CALLS[type]
    check_names(type, 'slot', inputs, [*(slot.lstrip('*') for slot in call.slots), *call.operands])
    check_names(type, 'attribute', attrs, call.attrs)
    arguments: list[Any] = []
    for slot in call.slots:
        group = inputs.get(slot.lstrip('*'), [])
        if slot[0] == '*':
            arguments.append([var.raw for var in group])
        elif len(group) != 1:
            raise GraphError(f'{type} takes one variable through {slot!r}, not {len(group)}')
        else:
            arguments.append(group[0].raw)
    tensors = {name: inputs[slot][0].raw for slot, name in call.operands.items() if inputs.get(slot)}
    for name, default in call.attrs.items():
        value = tensors.get(name, attrs.get(name, default))
        if value is ...:
            raise GraphError(f'{type} needs the attribute {name!r}')
        arguments.append(paddle_compat.pir_dtype(value) if name.endswith('dtype') and value is not None else value)
    return call, arguments


def check_names(type: str, what: str, given: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> None:
    """Raise GraphError where a slot or attribute (``what``) that is given is not a known one of this operator."""
    for name in given:
        if name not in known:
            raise GraphError(f'{type} has no {what} {name!r}; it has {list(known)}')
