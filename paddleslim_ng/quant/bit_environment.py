"""The choice of bits as a walk over the layers with a budget that no walk exceeds, after PocketFlow's bit optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import shape_of
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.spec import QuantizationSpec, largest_integer

__all__ = ['BitEnvironment', 'BitLayer', 'bit_layers', 'clipped_bits', 'duty']

Floats = npt.NDArray[np.float32]


class BitLayer(NamedTuple):
    """A layer whose weight is given bits.

    Attributes:
        name: of its weight.
        shape: height and width of the kernel, input and output channels; 1, 1 and both sizes of a matrix.
        elements: of the weight.
    """

    name: str
    shape: tuple[int, int, int, int]
    elements: int


def bit_layers(spec: QuantizationSpec, scope: Any = None) -> list[BitLayer]:
    """Return the layers of the quantized weights of a specification, in its order.

    Raises:
        GraphError: the scope lacks a weight.
    """
    home = scope if scope is not None else paddle.static.global_scope()
    found = []
    for tensor in spec.of_kind('weight'):
        sizes = shape_of(home, tensor.name)
        height, width = (*sizes[2:], 1, 1)[:2] if len(sizes) > 2 else (1, 1)
        inputs, outputs = (sizes[1], sizes[0]) if len(sizes) > 2 else (1, *sizes)[-2:]
        found.append(BitLayer(tensor.name, (height, width, inputs, outputs), math.prod(sizes)))
    return found


def duty(budget: float, used: float, remaining: int, lowest: int) -> float:
    """Return the bits of the budget that are free once every remaining element has the lowest width.

    Args:
        budget: bits of all weights together.
        used: bits that have been given away.
        remaining: elements that have none yet, those of the layer in question included.
        lowest: smallest width.
    """
    return budget - used - remaining * lowest


def clipped_bits(action: float, free: float, elements: int, lowest: int, highest: int, *, last: bool = False) -> int:
    """Return the width that an action stands for, or the largest one that the budget leaves.

    Args:
        action: width above the lowest one, rounded to the nearest.
        free: see :func:`duty`.
        elements: of the layer.
        lowest: smallest width.
        highest: largest width.
        last: the last layer takes what is left.
    """
    affordable = lowest + math.floor(free / elements)
    wanted = affordable if last else lowest + math.floor(action + 0.5)
    return max(lowest, min(wanted, affordable, highest))


class BitEnvironment:
    """Layers that are given bits one after another within a mean width, with the state that an agent sees.

    Args:
        layers: by :func:`bit_layers`.
        average_bits: mean width over all elements that no walk exceeds.
        lowest: smallest width of a layer.
        highest: largest width of a layer.

    Attributes:
        order: places of the layers, in the order in which they are given bits.
        bits: what has been given so far, by name.

    Raises:
        ConfigError: no layer, widths that are none, or a mean below the lowest one.

    Example:
        >>> environment = BitEnvironment(bit_layers(spec, scope), average_bits=3)
        >>> state = environment.reset()
        >>> while not environment.done:
        ...     state = environment.step(agent(state))
        >>> environment.bits
    """

    def __init__(self, layers: Sequence[BitLayer], average_bits: float, *, lowest: int = 2, highest: int = 8) -> None:
        if not layers:
            raise ConfigError('there is no layer to give bits to')
        largest_integer(lowest)
        largest_integer(highest)
        if not lowest <= highest:
            raise ConfigError(f'lowest must not be above highest: {lowest}, {highest}')
        if not average_bits >= lowest:
            raise ConfigError(f'{average_bits} bits on average cannot be kept with {lowest} bits at least')
        self.layers, self.lowest, self.highest = tuple(layers), lowest, highest
        self.budget = average_bits * sum(layer.elements for layer in layers)
        self.order = list(range(len(layers)))
        self.bits: dict[str, int] = {}
        self._states = _states(self.layers)

    @property
    def done(self) -> bool:
        """Whether every layer has bits."""
        return len(self.bits) == len(self.layers)

    @property
    def state_size(self) -> int:
        """Length of a state: one entry for each layer and six more."""
        return self._states.shape[1]

    @property
    def highest_action(self) -> float:
        """Largest action; the smallest one is 0."""
        return float(self.highest - self.lowest)

    def reset(self, random: np.random.Generator | None = None) -> Floats:
        """Start anew and return the first state; layers come in a random order where a generator is given."""
        self.bits = {}
        count = len(self.layers)
        self.order = [int(place) for place in random.permutation(count)] if random is not None else list(range(count))
        return self.state()

    def state(self) -> Floats:
        """Return what is known before the next layer is given bits; zeros where there is none.

        One-hot place of the layer; height, width, input and output channels of its kernel and its elements, each as a
        fraction of the largest one; and the fraction of all elements that lies in later layers.
        """
        return np.zeros(self.state_size, np.float32) if self.done else self._states[self.order[len(self.bits)]].copy()

    def step(self, action: float) -> Floats:
        """Give the next layer the width that an action asks for, as far as the budget goes; return the next state.

        Raises:
            ConfigError: every layer has bits, or the action is no number.
        """
        if self.done:
            raise ConfigError('every layer has its bits: reset the environment')
        if not math.isfinite(action):
            raise ConfigError(f'an action must be a number, not {action!r}')
        layer = self.layers[self.order[len(self.bits)]]
        given = [item for item in self.layers if item.name in self.bits]
        used = sum(self.bits[item.name] * item.elements for item in given)
        remaining = sum(item.elements for item in self.layers) - sum(item.elements for item in given)
        free = duty(self.budget, used, remaining, self.lowest)
        last = len(self.bits) == len(self.layers) - 1
        self.bits[layer.name] = clipped_bits(action, free, layer.elements, self.lowest, self.highest, last=last)
        return self.state()

    def allocate(self, actions: Mapping[str, float]) -> dict[str, int]:
        """Return the bits of a whole walk, for given actions by layer, in program order."""
        self.reset()
        for layer in self.layers:
            self.step(actions[layer.name])
        return dict(self.bits)

    def average(self, bits: Mapping[str, int]) -> float:
        """Return the mean width of given bits over all elements."""
        total = sum(layer.elements for layer in self.layers)
        return sum(bits[layer.name] * layer.elements for layer in self.layers) / total


def _states(layers: Sequence[BitLayer]) -> Floats:
    elements = np.array([layer.elements for layer in layers], np.float64)
    sizes = np.column_stack([np.array([layer.shape for layer in layers], np.float64), elements])
    later = (elements.sum() - np.cumsum(elements)) / elements.sum()
    return np.column_stack([np.eye(len(layers)), sizes / sizes.max(axis=0), later]).astype(np.float32)
