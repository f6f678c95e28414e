"""Multiply-accumulates of single operators.

:data:`PRODUCTS` has a row for each operator that convolves or multiplies matrices, :func:`other_work` the convention
for everything else. Shapes are those of a batch of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from paddleslim_ng.analysis.op_kinds import (
    ELEMENTWISE,
    FREE,
    HIDDEN_WORK,
    HIDDEN_WORK_WORDS,
    INTERPOLATION,
    NORMALIZATION,
    PARAMETER_READERS,
    POOLING,
    REDUCTION,
)
from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.errors import UnsupportedOpError

__all__ = ['COUNTED', 'PRODUCTS', 'is_known', 'other_work', 'product_work', 'sub_block_types']

ShapeOf = Callable[[VarWrapper], 'tuple[int, ...]']
_ATTENTION_SLOTS: Final = (('Q', 'Query'), ('K', 'Key'), ('V', 'Value'))


def _convolution(op: OpWrapper, shape: ShapeOf) -> int:
    """Every output position applies the whole filter [C_out, C_in / groups, k...] once."""
    (out,) = op.outputs('Output') or op.outputs('Out')
    return _positions(shape(out), op) * math.prod(shape(op.inputs('Filter')[0]))


def _transposed_convolution(op: OpWrapper, shape: ShapeOf) -> int:
    """Every input position spreads the whole filter [C_in, C_out / groups, k...] once."""
    return _positions(shape(op.inputs('Input')[0]), op) * math.prod(shape(op.inputs('Filter')[0]))


def _positions(shape: tuple[int, ...], op: OpWrapper) -> int:
    channels_last = str(op.attr('data_format') or 'NCHW').upper() in ('NHWC', 'NDHWC', 'NLC')
    return math.prod(shape[:-1]) if channels_last else shape[0] * math.prod(shape[2:])


def _operands(op: OpWrapper) -> tuple[VarWrapper, VarWrapper]:
    first, second = (
        op.inputs('X') or op.inputs('Input'),
        op.inputs('Y') or op.inputs('W') or op.inputs('Vec') or op.inputs('Weight'),
    )
    return first[0], second[0]


def _flattened_product(op: OpWrapper, shape: ShapeOf) -> int:
    """``mul`` and its kin: X flattened to [rows, K] times Y flattened to [K, N]."""
    x, y = (shape(var) for var in _operands(op))
    split = op.attr('x_num_col_dims') or op.attr('in_num_col_dims') or 1
    return math.prod(x[:split]) * math.prod(y)


def _matrix_product(op: OpWrapper, shape: ShapeOf) -> int:
    """``matmul`` of any ranks with broadcasting: [..., M, K] times [..., K, N]; vectors have M or N = 1."""
    x, y = (shape(var) for var in _operands(op))
    x = (1, *x) if len(x) == 1 else _swapped(x, _flag(op, 'trans_x', 'transpose_X'))
    y = (*y, 1) if len(y) == 1 else _swapped(y, _flag(op, 'trans_y', 'transpose_Y'))
    return _broadcast_size(x[:-2], y[:-2]) * x[-2] * x[-1] * y[-1]


def _flag(op: OpWrapper, *names: str) -> bool:
    return any(bool(op.attr(name)) for name in names)


def _swapped(shape: tuple[int, ...], swap: bool) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if swap else shape


def _broadcast_size(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    rank = max(len(first), len(second))
    pairs = zip((1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second)
    return math.prod(max(pair) for pair in pairs)


def _dot(op: OpWrapper, shape: ShapeOf) -> int:
    return math.prod(shape(op.inputs('X')[0]))


def _bilinear(op: OpWrapper, shape: ShapeOf) -> int:
    """Weight [out, dx, dy] by x, then by y."""
    out, dx, dy = shape(op.inputs('Weight')[0])
    return shape(op.inputs('X')[0])[0] * (out * dx * dy + out * dy)


def _recurrent(op: OpWrapper, shape: ShapeOf) -> int:
    """Each weight matrix of each layer and direction is applied once per time step; Input is [time, batch, width]."""
    steps, batch = shape(op.inputs('Input')[0])[:2]
    matrices = [shape(weight) for weight in op.inputs('WeightList')]
    return steps * batch * sum(math.prod(matrix) for matrix in matrices if len(matrix) == 2)


def _attention(op: OpWrapper, shape: ShapeOf) -> int:
    """Softmax(q k) v on [batch, length, heads, width]: both products, without discount for masks."""
    q, k, v = (shape((op.inputs(short) or op.inputs(long))[0]) for short, long in _ATTENTION_SLOTS)
    batch, queries, heads, width = q
    return batch * heads * queries * k[1] * (width + v[3])


def _einsum(op: OpWrapper, shape: ShapeOf) -> int:
    """One multiply-accumulate per combination of indices, but for those that are summed within one operand first."""
    equation = str(op.attr('equation')).replace(' ', '')
    operands = op.inputs('Operands')
    if len(operands) == 1:
        return 0
    if len(operands) > 2:
        raise UnsupportedOpError(
            f'cannot count einsum {equation!r}: with {len(operands)} operands the cost depends on the order in which '
            'they are contracted; write it as several einsums of two operands',
            op='einsum',
        )
    left, _, result = equation.partition('->')
    terms = left.split(',')
    sizes: dict[str, int] = {}
    for term, var in zip(terms, operands):
        for index, size in _indices(term, shape(var)).items():
            sizes[index] = max(sizes.get(index, 1), size)
    implicit = {c for c in left if left.count(c) == 1}
    kept = set(result) if '->' in equation else implicit
    alone = {index for index in sizes if sum(index in term for term in terms) == 1 and index not in kept}
    return math.prod(size for index, size in sizes.items() if index not in alone or index.startswith('...'))


def _indices(term: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Map the indices of one term to sizes; the axes of an ellipsis are called ``...1``, ``...2`` from the right."""
    before, dots, after = term.partition('...')
    spread = len(shape) - len(before) - len(after)
    names = [*before, *([f'...{n}' for n in range(spread, 0, -1)] if dots else []), *after]
    return dict(zip(names, shape))


PRODUCTS: Final[Mapping[str, Callable[[OpWrapper, ShapeOf], int]]] = {
    **dict.fromkeys(
        (
            'conv2d',
            'conv2d_fusion',
            'conv3d',
            'deformable_conv',
            'deformable_conv_v1',
            'depthwise_conv2d',
            'fused_conv2d',
            'fused_conv2d_add_act',
        ),
        _convolution,
    ),
    **dict.fromkeys(
        ('conv2d_transpose', 'conv3d_transpose', 'depthwise_conv2d_transpose', 'conv2d_transpose_bias'),
        _transposed_convolution,
    ),
    **dict.fromkeys(('mul', 'fc', 'matmul_with_flatten', 'fused_fc'), _flattened_product),
    **dict.fromkeys(
        ('matmul', 'matmul_v2', 'bmm', 'mv', 'addmm', 'baddbmm', 'fused_gemm_epilogue', 'fused_matmul', 'linear_v2'),
        _matrix_product,
    ),
    'dot': _dot,
    'bilinear_tensor_product': _bilinear,
    'einsum': _einsum,
    'rnn': _recurrent,
    **dict.fromkeys(('flash_attn', 'memory_efficient_attention'), _attention),
}
_BLOCKS: Final = frozenset({'conditional_block', 'conditional_block_infer', 'if', 'pd_op.if', 'while', 'pd_op.while'})
COUNTED: Final = frozenset(PRODUCTS) | ELEMENTWISE | NORMALIZATION | POOLING | REDUCTION | frozenset(INTERPOLATION)


def product_work(op: OpWrapper, shape: ShapeOf) -> int:
    """Return the multiply-accumulates of the convolutions and matrix products in ``op``; 0 where it has none.

    Raises:
        UnsupportedOpError: ``op`` contains, or may contain, products that no row describes.
    """
    rule = PRODUCTS.get(op.type())
    if rule is not None:
        return rule(op, shape)
    reason = _hidden_work(op)
    if reason:
        names = [var.name() for var in op.all_outputs()]
        raise UnsupportedOpError(
            f'cannot count the operator {op.type()!r} that makes {names[:2]}: {reason}; count the program before this '
            'operator is introduced, or write it with plain convolutions and matrix products',
            op=op.type(),
            variable=names[0] if names else None,
        )
    return 0


def is_known(op: OpWrapper) -> bool:
    """Tell whether a row or convention covers the operator; others are taken to do nothing that is counted."""
    return op.type() in COUNTED or op.type() in FREE or op.type() in _BLOCKS


def _hidden_work(op: OpWrapper) -> str:
    kind = op.type()
    inner = sub_block_types(op)
    if inner is not None:
        found = sorted(t for t in inner if t in PRODUCTS or t in HIDDEN_WORK or _suspicious(t))
        return f'its block, run how often only the data tell, contains {", ".join(found)}' if found else ''
    if kind in HIDDEN_WORK or (not is_known(op) and _suspicious(kind)):
        return 'it contains products of a shape that is not known here'
    if kind not in PARAMETER_READERS and kind not in POOLING and kind not in INTERPOLATION:
        matrices = [var.name() for var in op.all_inputs() if var.persistable() and len(var.shape()) > 1]
        if matrices:
            return f'it is unknown and reads {", ".join(matrices)}, perhaps to multiply by'
    return ''


def _suspicious(kind: str) -> bool:
    known = ELEMENTWISE | NORMALIZATION | POOLING | REDUCTION | FREE
    return kind not in known and kind not in INTERPOLATION and any(word in kind for word in HIDDEN_WORK_WORDS)


def sub_block_types(op: OpWrapper) -> set[str] | None:
    """Return the canonical operator types inside a control-flow operator, nested ones too; None if it has no block."""
    from paddleslim_ng.core.op_table import canonical_type

    blocks = _blocks_of(op.raw)
    if not blocks:
        return None
    found: set[str] = set()
    queue = list(blocks)
    while queue:
        for raw in queue.pop().ops:
            found.add(canonical_type(raw.name()) if callable(getattr(raw, 'name', None)) else str(raw.type))
            queue.extend(_blocks_of(raw))
    return found


def _blocks_of(raw: Any) -> list[Any]:
    if callable(getattr(raw, 'blocks', None)):
        return list(raw.blocks()) if raw.num_regions() else []
    if raw.has_attr('sub_block'):
        return [raw.block.program.block(raw._block_attr_id('sub_block'))]
    return []


def other_work(op: OpWrapper, shape: ShapeOf) -> int:
    """Return the operations of what is no convolution or matrix product, by the convention of :func:`flops`."""
    kind = op.type()
    if kind in POOLING:
        return _pooling(op, shape)
    if kind in ELEMENTWISE or kind in NORMALIZATION:
        return _largest(op.outputs('Y') or op.outputs('Out') or op.outputs('Loss') or op.all_outputs(), shape)
    if kind in REDUCTION:
        return _largest(op.inputs('X') or op.all_inputs(), shape)
    if kind in INTERPOLATION:
        return INTERPOLATION[kind] * _largest(op.outputs('Out') or op.outputs('Output'), shape)
    return 0


def _largest(variables: list[VarWrapper], shape: ShapeOf) -> int:
    return max((math.prod(shape(var)) for var in variables), default=0)


def _pooling(op: OpWrapper, shape: ShapeOf) -> int:
    """Window size times results; a global or adaptive pool reads every element once."""
    if op.attr('global_pooling') or op.attr('adaptive'):
        return _largest(op.inputs('X'), shape)
    window = op.attr('ksize') or op.attr('kernel_size') or ()
    return math.prod(int(size) for size in window) * _largest(op.outputs('Out'), shape)
