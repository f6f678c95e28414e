"""Batch norms that can be folded into the operator with weights before them, and why the others cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import OpWrapper, VarWrapper

__all__ = ['WEIGHTS', 'Foldable', 'find_foldable', 'scale_outputs']

# operator -> slot of its weight
WEIGHTS: Final[Mapping[str, str]] = {
    'conv2d': 'Filter',
    'depthwise_conv2d': 'Filter',
    'conv2d_transpose': 'Filter',
    'depthwise_conv2d_transpose': 'Filter',
    'mul': 'Y',
    'matmul': 'Y',
    'matmul_v2': 'Y',
}
_TRANSPOSED: Final = frozenset({'conv2d_transpose', 'depthwise_conv2d_transpose'})
_PRODUCTS: Final = frozenset({'mul', 'matmul', 'matmul_v2'})
Users = Mapping[str, list[OpWrapper]]
_PARAMETERS: Final = ('Scale', 'Bias', 'Mean', 'Variance')


@dataclass(frozen=True)
class Foldable:
    """A batch norm and what it is folded into.

    Attributes:
        norm: the batch norm.
        layer: the operator with weights.
        weight: its weight.
        addition: the operator between them that adds a bias, or None.
        bias: that bias, or None.
        reshaping: the operator that gives the bias the rank of what it is added to, or None.
        axis: axis of the channels in the output of ``layer``.
    """

    norm: OpWrapper
    layer: OpWrapper
    weight: VarWrapper
    addition: OpWrapper | None
    bias: VarWrapper | None
    reshaping: OpWrapper | None
    axis: int

    @property
    def product(self) -> VarWrapper:
        """What ``layer`` makes."""
        return self.layer.all_outputs()[0]


def find_foldable(norm: OpWrapper, kept: Collection[str], users: Users) -> Foldable | str:
    """Return what a batch norm can be folded into, or the reason why it cannot.

    Args:
        norm: a batch norm of an inference program.
        kept: names of tensors that have to stay, the outputs of the program.
        users: by name, the operators that read or write a variable.
    """
    if not (norm.attr('is_test') or norm.attr('use_global_stats')):
        return 'it computes with the statistics of the batch'
    parameters = [var for slot in _PARAMETERS for var in norm.inputs(slot)]
    if len(parameters) != len(_PARAMETERS):
        return 'it lacks a scale or a bias'
    shared = [var.name() for var in parameters if any(op is not norm for op in users[var.name()])]
    if shared:
        return f'its parameter {shared[0]!r} is used by other operators, too'
    others = [
        var for slot in norm.output_slots() if slot not in ('Y', 'MeanOut', 'VarianceOut') for var in norm.outputs(slot)
    ]
    if any(var.outputs() for var in others):
        return 'its statistics are read by other operators'
    return _layer_before(norm, kept, users)


def _layer_before(norm: OpWrapper, kept: Collection[str], users: Users) -> Foldable | str:
    source = norm.inputs('X')[0]
    maker = _only_maker(source)
    addition = bias = reshaping = None
    if maker is not None and maker.type() == 'elementwise_add':
        addition = maker
        split = _split_addition(maker)
        if split is None:
            return f'its input {source.name()!r} is a sum, not of a product and a bias'
        product, bias, reshaping = split
        maker = _only_maker(product)
    if maker is None or maker.type() not in WEIGHTS:
        return f'its input {source.name()!r} is not made by an operator with weights'
    product = maker.all_outputs()[0]
    for var in (source, product):
        if len(var.outputs()) != 1 or var.name() in kept:
            return f'{var.name()!r}, which is normalized, is used otherwise, too'
    for what, parameter in (('weight', maker.inputs(WEIGHTS[maker.type()])[0]), ('bias', bias)):
        if parameter is not None and (not parameter.is_parameter() or len(users[parameter.name()]) != 1):
            return f'the {what} {parameter.name()!r} is no parameter, or used by other operators, too'
    return _checked(norm, maker, addition, bias, reshaping)


def _only_maker(var: VarWrapper) -> OpWrapper | None:
    makers = var.inputs()
    return makers[0] if len(makers) == 1 else None


def _split_addition(addition: OpWrapper) -> tuple[VarWrapper, VarWrapper, OpWrapper | None] | None:
    """Return product, bias, and the operator that reshapes the bias."""
    x, y = addition.inputs('X')[0], addition.inputs('Y')[0]
    for product, other in ((x, y), (y, x)):
        reshaping = _only_maker(other)
        if other.is_parameter():
            return product, other, None
        if reshaping is not None and reshaping.type() == 'reshape2' and len(other.outputs()) == 1:
            source = reshaping.inputs('X')[0]
            if source.is_parameter():
                return product, source, reshaping
    return None


def _checked(
    norm: OpWrapper,
    layer: OpWrapper,
    addition: OpWrapper | None,
    bias: VarWrapper | None,
    reshaping: OpWrapper | None,
) -> Foldable | str:
    weight = layer.inputs(WEIGHTS[layer.type()])[0]
    product = layer.all_outputs()[0]
    rank = len(product.shape())
    layout = norm.attr('data_layout') or 'NCHW'
    axis = rank - 1 if layout.endswith('C') else 1
    if layer.inputs('Bias'):
        return f'{layer.type()} has a bias of its own'
    if layer.type() in _PRODUCTS:
        if axis != rank - 1 or _is_transposed(layer):
            return f'{layer.type()} makes its channels along another axis than the {axis} of the batch norm'
    elif (layer.attr('data_format') or 'NCHW').endswith('C') != layout.endswith('C'):
        return f'{layer.type()} and the batch norm have different layouts'
    added = addition.inputs('Y')[0] if addition is not None else None
    if addition is not None and added is not None:
        term = added if added is not product else addition.inputs('X')[0]
        if not _is_along(term, rank, axis, addition.attr('axis'), norm.inputs('Bias')[0].shape()[0]):
            return f'what is added, {term!r}, is no bias of channels'
    if any(var.dtype() != 'float32' for var in (weight, product, *([bias] if bias is not None else []))):
        return 'it is not computed in float32'
    return Foldable(norm, layer, weight, addition, bias, reshaping, axis)


def _is_transposed(layer: OpWrapper) -> bool:
    return any(layer.attr(name) for name in ('trans_x', 'trans_y', 'transpose_X', 'transpose_Y'))


def _is_along(term: VarWrapper, rank: int, axis: int, given: int | None, channels: int) -> bool:
    """Tell whether a term holds one number for each channel, at the right axis."""
    shape = term.shape()
    first = rank - len(shape) if given is None or given < 0 else given
    sizes = {first + place: size for place, size in enumerate(shape) if size != 1}
    return sizes in ({axis: channels}, {})


def scale_outputs(
    layer: OpWrapper, weight: npt.NDArray[np.float64], factors: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return a weight with which an operator makes its output channels multiplied by factors."""
    if layer.type() in _PRODUCTS:
        return weight * factors
    if layer.type() not in _TRANSPOSED:
        return weight * factors.reshape(-1, 1, 1, 1)
    groups = int(layer.attr('groups') or 1)
    parts = weight.reshape(groups, -1, *weight.shape[1:])  # [groups, in / groups, out / groups, height, width]
    found: npt.NDArray[np.float64] = (parts * factors.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape)
    return found
