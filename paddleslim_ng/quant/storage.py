"""Storage that quantized weights really need: integers packed without gaps, and all that decodes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from paddleslim_ng.core import GraphWrapper, VarWrapper
from paddleslim_ng.errors import GraphError
from paddleslim_ng.quant.spec import QuantizationSpec, TensorQuantization

__all__ = ['StorageReport', 'TensorStorage', 'float_storage', 'storage_report']

_FLOAT_BITS: Final = 32


@dataclass(frozen=True)
class TensorStorage:
    """Storage of one parameter.

    Attributes:
        name: of the parameter.
        shape: its shape.
        bits: of the code of an element; those of its element type where it is not quantized.
        buckets: parts with a scale, range or codebook of their own; 0 where it is not quantized.
        side_bits: scales, offsets and codebooks of all buckets.
        float_bits: of an element before quantization.
        note: what else is to be known, such as that zeros are kept.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    buckets: int = 0
    side_bits: int = 0
    float_bits: int = _FLOAT_BITS
    note: str = ''

    @property
    def is_quantized(self) -> bool:
        """Whether there are codes."""
        return self.buckets > 0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def code_bits(self) -> int:
        """Bits of all codes."""
        return self.bits * self.elements

    @property
    def total_bits(self) -> int:
        """Bits of all that is stored."""
        return self.code_bits + self.side_bits

    @property
    def bits_per_element(self) -> float:
        """Average bits, scales and codebooks included."""
        return self.total_bits / self.elements

    @property
    def ratio(self) -> float:
        """How many times smaller than in float."""
        return self.float_bits * self.elements / self.total_bits


@dataclass(frozen=True)
class StorageReport:
    """Storage of all parameters of a program.

    Attributes:
        tensors: in program order, those that are not quantized included.
        skipped: by the first output of an operator whose weight could have been quantized, why it is not.
    """

    tensors: tuple[TensorStorage, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def quantized(self) -> tuple[TensorStorage, ...]:
        """What is quantized."""
        return tuple(tensor for tensor in self.tensors if tensor.is_quantized)

    @property
    def bits_per_weight(self) -> float:
        """Average bits of an element of the quantized tensors, scales and codebooks included."""
        return _ratio(sum(item.total_bits for item in self.quantized), sum(item.elements for item in self.quantized))

    @property
    def total_bytes(self) -> float:
        """Bytes of all parameters."""
        return sum(item.total_bits for item in self.tensors) / 8

    @property
    def float_bytes(self) -> float:
        """Bytes of all parameters before quantization."""
        return sum(item.float_bits * item.elements for item in self.tensors) / 8

    @property
    def ratio(self) -> float:
        """How many times smaller all parameters are than before."""
        return _ratio(self.float_bytes, self.total_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return figures as JSON can hold them."""
        return {
            'bits_per_weight': self.bits_per_weight,
            'total_bytes': self.total_bytes,
            'float_bytes': self.float_bytes,
            'ratio': self.ratio,
            'tensors': [
                {
                    'name': item.name,
                    'shape': list(item.shape),
                    'bits': item.bits,
                    'buckets': item.buckets,
                    'side_bits': item.side_bits,
                    'bits_per_element': item.bits_per_element,
                    'note': item.note,
                }
                for item in self.tensors
            ],
            'skipped': dict(self.skipped),
        }

    def __str__(self) -> str:
        """Return a table of the quantized tensors, and totals."""
        width = max([len(item.name) for item in self.quantized], default=6)
        lines = [f'{"weight":{width}}  elements  bits  buckets  bits/weight  ratio']
        for item in self.quantized:
            note = f'  {item.note}' if item.note else ''
            lines.append(
                f'{item.name:{width}}  {item.elements:8d}  {item.bits:4d}  {item.buckets:7d}  '
                f'{item.bits_per_element:11.3f}  {item.ratio:5.2f}{note}'
            )
        count = len(self.tensors) - len(self.quantized)
        lines.append(
            f'{self.bits_per_weight:.3f} bits for each quantized weight; with the {count} other parameters '
            f'{self.total_bytes:.0f} bytes instead of {self.float_bytes:.0f}, {self.ratio:.2f} times less'
        )
        lines += [f'not quantized: {name}: {reason}' for name, reason in self.skipped.items()]
        return '\n'.join(lines)


def storage_report(program: Any, spec: QuantizationSpec) -> StorageReport:
    """Return the storage of a program's parameters where weights are the integers of a specification.

    An integer takes the bits that it has, whatever a file format rounds that up to; a scale takes 32 bits; the zero
    point of a tensor takes the bits of an integer where it is not 0.

    Args:
        program: a program of either IR, or a GraphWrapper.
        spec: its quantization.

    Raises:
        GraphError: the program lacks a weight.
    """
    graph = GraphWrapper(program)
    found = float_storage(graph)
    for tensor in spec.of_kind('weight'):
        if tensor.name not in found:
            raise GraphError(f'the program has no parameter {tensor.name!r}, which the specification quantizes')
        found[tensor.name] = _of_integers(tensor, found[tensor.name])
    return StorageReport(tuple(found.values()), spec.skipped)


def _of_integers(tensor: TensorQuantization, before: TensorStorage) -> TensorStorage:
    side = tensor.scale.size * _FLOAT_BITS + (tensor.bits if tensor.zero_point else 0)
    return TensorStorage(before.name, before.shape, tensor.bits, tensor.scale.size, side, before.float_bits)


def float_storage(graph: GraphWrapper) -> dict[str, TensorStorage]:
    """Return the storage of the parameters of a program as they are, by name."""
    found: dict[str, TensorStorage] = {}
    for var in graph.all_parameters():
        bits = _bits_of(var)
        found.setdefault(var.name(), TensorStorage(var.name(), var.shape(), bits, float_bits=bits))
    return found


def _bits_of(var: VarWrapper) -> int:
    kind = var.dtype()
    return 16 if kind == 'bfloat16' else int(np.dtype(kind).itemsize) * 8


def _ratio(above: float, below: float) -> float:
    return above / below if below else 1.0
