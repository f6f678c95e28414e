"""Quantization operators of legacy programs, which have several results and parameters of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Union

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper, paddle_compat
from paddleslim_ng.core.insertion import Insertion, add_state
from paddleslim_ng.quant.placement import Placed
from paddleslim_ng.quant.spec import TensorQuantization

__all__ = ['RUNTIME_BITS', 'Given', 'LegacyOperators', 'carrier', 'zeros']

RUNTIME_BITS: Final = 8

Given = Union[VarWrapper, str, list[Union[VarWrapper, str]]]


class LegacyOperators:
    """Builds operators in a legacy program.

    Args:
        graph: the wrapped program.

    Attributes:
        arrays: content of the persistable tensors that were added.
    """

    def __init__(self, graph: GraphWrapper) -> None:
        self.graph = graph
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self._block = graph.program.global_block()

    def state(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add a persistable tensor with this content where there is none of that name yet, and return the name.

        Raises:
            GraphError: the name belongs to something else.
        """
        if name not in self.arrays:
            add_state(self.graph, name, array.shape, str(array.dtype))
            self.arrays[name] = array
        return name

    def variable(self, name: str, like: VarWrapper) -> VarWrapper:
        """Add a variable of float32 in the shape of another, under this name or a free one like it."""
        free = paddle_compat.unused_name(self._block, name) if self._block.has_var(name) else name
        made = self._block.create_var(name=free, shape=like.raw.shape, dtype='float32', stop_gradient=True)
        return VarWrapper(self.graph, made, free)

    def within_bits(self, item: Placed) -> VarWrapper:
        """Return an activation, cut off where integers of 8 bits would go on and those of its own width do not."""
        if item.tensor.bits >= RUNTIME_BITS:
            return item.var
        bound = float(item.tensor.threshold[0])
        here = Insertion(self.graph, before=item.readers[0])
        return here.op('clip', {'X': item.var}, {'min': -bound, 'max': bound})

    def insert(
        self,
        place: OpWrapper,
        type: str,
        inputs: Mapping[str, Given],
        outputs: Mapping[str, Given],
        attrs: Mapping[str, Any],
        *,
        after: bool = False,
    ) -> None:
        """Build an operator right before another one, or behind it.

        Attributes that the running Paddle does not declare are stored as well: another one that reads the file may.
        """
        known = {item.name for item in paddle_compat.operator_proto(type).attrs}
        made = self._block._insert_op(
            self._block.ops.index(place.raw) + int(after),
            type=type,
            inputs={slot: self._variables(given) for slot, given in inputs.items()},
            outputs={slot: self._variables(given) for slot, given in outputs.items()},
            attrs={key: value for key, value in attrs.items() if key in known},
        )
        for key, value in attrs.items():
            if key not in known:
                made._set_attr(key, value)

    def _variables(self, given: Given) -> list[Any]:
        group = given if isinstance(given, list) else [given]
        return [item.raw if isinstance(item, VarWrapper) else self._block.var(item) for item in group]


def carrier(tensor: TensorQuantization) -> TensorQuantization:
    """Return the quantization on the same scale to 8 bits at least, which every runtime knows.

    Runtimes have kernels for 8 bits and read other widths as that, refuse them, or take the range from different
    attributes. Integers of fewer bits are a part of those of 8.
    """
    return replace(tensor, bits=max(int(tensor.bits), RUNTIME_BITS))


def zeros(count: int) -> npt.NDArray[np.int32]:
    """Return zero points, as quantize_linear takes them."""
    return np.zeros([count], np.int32)
