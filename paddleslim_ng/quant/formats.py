"""The forms in which quantized models are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, load_array
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.decomposed_format import read_decomposed, write_decomposed, write_packed
from paddleslim_ng.quant.fake_format import write_fake
from paddleslim_ng.quant.linear_format import write_linear
from paddleslim_ng.quant.placement import Placed
from paddleslim_ng.quant.spec import QuantizationSpec, TensorQuantization

__all__ = ['FORMATS', 'QuantizedFormat', 'check_format']

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class QuantizedFormat:
    """A form of quantized models.

    Attributes:
        ir: of the programs that it is for; None for that of the program at hand.
        widest: largest number of bits.
        affine: whether zero points may differ from 0.
        grouped: whether weights may have groups.
        write: rewrites a program of that IR in place and returns the arrays of its new and changed parameters.
        read: returns the integers of a weight of some shape from the scope of a loaded model.
    """

    ir: str | None
    widest: int
    affine: bool
    grouped: bool
    write: Callable[[GraphWrapper, list[Placed], Arrays], Arrays]
    read: Callable[[Any, TensorQuantization, Sequence[int]], npt.NDArray[Any]]


def _read_parameter(scope: Any, tensor: TensorQuantization, shape: Sequence[int]) -> npt.NDArray[Any]:
    return load_array(scope, tensor.name)


FORMATS: Final[Mapping[str, QuantizedFormat]] = {
    'quantize_linear': QuantizedFormat('legacy', 8, False, False, write_linear, _read_parameter),
    'fake_quantize': QuantizedFormat('legacy', 16, False, False, write_fake, _read_parameter),
    'decomposed': QuantizedFormat(None, 16, True, True, write_decomposed, read_decomposed),
    'packed': QuantizedFormat(None, 16, True, True, write_packed, read_decomposed),
}


def check_format(name: str, spec: QuantizationSpec) -> QuantizedFormat:
    """Return a format, if it can hold a quantization.

    Raises:
        ConfigError: there is no such format, or it lacks the bits, zero points or groups that ``spec`` has.
    """
    if name not in FORMATS:
        raise ConfigError(f'unknown format {name!r} of quantized models; known: {list(FORMATS)}')
    found = FORMATS[name]
    for tensor in spec.tensors.values():
        if tensor.bits > found.widest:
            raise ConfigError(
                f'{tensor.name!r} has {tensor.bits} bits, and the {name} format at most {found.widest}: take '
                f'another of {[other for other, row in FORMATS.items() if row.widest >= tensor.bits]}'
            )
        if tensor.zero_point and not found.affine:
            raise ConfigError(
                f'{tensor.name!r} has the zero point {tensor.zero_point}, and the {name} format none; take decomposed'
            )
        if tensor.group_axis is not None and not found.grouped:
            raise ConfigError(
                f'{tensor.name!r} has a scale for every {tensor.group_size} inputs, and the {name} format one for each '
                f'output channel at most: take another of {[other for other, row in FORMATS.items() if row.grouped]}'
            )
    return found
