"""The forms in which quantized models are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.decomposed_format import write_decomposed
from paddleslim_ng.quant.fake_format import write_fake
from paddleslim_ng.quant.linear_format import write_linear
from paddleslim_ng.quant.placement import Placed
from paddleslim_ng.quant.spec import QuantizationSpec

__all__ = ['FORMATS', 'QuantizedFormat', 'check_format']

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class QuantizedFormat:
    """A form of quantized models.

    Attributes:
        ir: of the programs that it is for; None for that of the program at hand.
        widest: largest number of bits.
        affine: whether zero points may differ from 0.
        write: rewrites a program of that IR in place and returns the arrays of its new and changed parameters.
        integers: name under which the integers of a weight are stored.
    """

    ir: str | None
    widest: int
    affine: bool
    write: Callable[[GraphWrapper, list[Placed], Arrays], Arrays]
    integers: Callable[[str], str]


FORMATS: Final[Mapping[str, QuantizedFormat]] = {
    'quantize_linear': QuantizedFormat('legacy', 8, False, write_linear, lambda name: name),
    'fake_quantize': QuantizedFormat('legacy', 16, False, write_fake, lambda name: name),
    'decomposed': QuantizedFormat(None, 16, True, write_decomposed, lambda name: f'{name}@integers'),
}


def check_format(name: str, spec: QuantizationSpec) -> QuantizedFormat:
    """Return a format, if it can hold a quantization.

    Raises:
        ConfigError: there is no such format, or it lacks the bits or zero points that ``spec`` has.
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
    return found
