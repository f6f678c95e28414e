"""Bits for every tensor under a budget: an exact choice where each tensor's loss is known at several widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import paddle

from paddleslim_ng.core import shape_of
from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.quant.knapsack import Item, cheapest, solve
from paddleslim_ng.quant.spec import QuantizationSpec

__all__ = ['FLOAT_BITS', 'BitAllocation', 'BitAllocator', 'TensorSize', 'weight_sizes']

#: Width that stands for a tensor that stays in float32.
FLOAT_BITS: Final = 32
_SCALE_BYTES: Final = 4
Losses = Mapping[str, Mapping[int, float]]


class TensorSize(NamedTuple):
    """What a tensor takes.

    Attributes:
        elements: how many numbers it has; of an activation, for one image.
        scales: how many scales of float32 go with its integers.
    """

    elements: int
    scales: int = 1

    def stored_bytes(self, bits: int) -> int:
        """Return the bytes that it takes: packed integers and scales, or floats at :data:`FLOAT_BITS`."""
        packed = -(-self.elements * bits // 8)
        return packed if bits == FLOAT_BITS else packed + self.scales * _SCALE_BYTES


def weight_sizes(spec: QuantizationSpec, scope: Any = None) -> dict[str, TensorSize]:
    """Return the sizes of the quantized weights of a specification.

    Args:
        spec: its weights and their scales; bits are of no matter.
        scope: holds the weights; Paddle's global scope where None.

    Raises:
        GraphError: the scope lacks a weight.
    """
    home = scope if scope is not None else paddle.static.global_scope()
    return {
        tensor.name: TensorSize(math.prod(shape_of(home, tensor.name)), tensor.scale.size)
        for tensor in spec.of_kind('weight')
    }


@dataclass(frozen=True)
class BitAllocation:
    """Bits for every tensor, and what they cost.

    Attributes:
        bits: by tensor; :data:`FLOAT_BITS` says that it stays in float.
        loss: sum of the tensors' losses, each measured alone.
        cost: what the bits cost, in ``unit``.
        budget: what they were allowed to cost.
        unit: of both.
        average_bits: mean over all elements of the tensors.
        stored_bytes: size of all tensors, scales included; activations count for one image.
    """

    bits: Mapping[str, int]
    loss: float
    cost: float
    budget: float
    unit: str
    average_bits: float
    stored_bytes: int

    @property
    def quantized(self) -> dict[str, int]:
        """``{tensor: bits}`` of those that become integers: ``weight_bits`` of ``spec_from_thresholds``."""
        return {name: bits for name, bits in self.bits.items() if bits != FLOAT_BITS}

    @property
    def floats(self) -> list[str]:
        """Tensors that stay in float: ``skip_tensor_list`` of ``spec_from_thresholds``."""
        return [name for name, bits in self.bits.items() if bits == FLOAT_BITS]

    def __str__(self) -> str:
        """Report in words."""
        lines = [
            f'{len(self.bits)} tensors at {self.average_bits:.3f} bits on average, {self.stored_bytes:,} bytes; '
            f'{self.cost:.6g} of {self.budget:.6g} {self.unit}; losses add up to {self.loss:.6g}'
        ]
        for width in sorted(set(self.bits.values())):
            names = [name for name, bits in self.bits.items() if bits == width]
            title = 'float' if width == FLOAT_BITS else f'{width} bits'
            lines.append(f'{title}: {len(names)}: {", ".join(names)}')
        return '\n'.join(lines)


@dataclass(frozen=True)
class BitAllocator:
    """Chooses bits for every tensor so that the sum of their losses is the least that a budget allows.

    The choice is exact (a knapsack of which one item is taken from each group), given that losses add up. They do so
    for errors that are small; where they do not, measure again around the choice: ``refine_bits``.

    Args:
        losses: ``{tensor: {bits: loss}}``, what quantizing the tensor alone to so many bits costs: the widths that the
            choice is made of. 32 stands for float32.
        sizes: of the tensors, by :func:`weight_sizes`; not needed for :meth:`within_latency`.

    Raises:
        ConfigError: no tensor, no width for one, a width or loss that is none, or a tensor without a size.

    Example:
        >>> allocator = BitAllocator({'w': {2: 0.3, 4: 0.1}, 'v': {2: 0.9, 4: 0.2}}, {'w': (100, 1), 'v': (50, 1)})
        >>> dict(allocator.within_average(3).bits)
        {'w': 2, 'v': 4}
    """

    losses: Losses
    sizes: Mapping[str, TensorSize | tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the arguments and copy them."""
        if not self.losses:
            raise ConfigError('there is nothing to allocate bits to: losses are empty')
        checked = {str(name): _checked_curve(str(name), curve) for name, curve in self.losses.items()}
        missing = [name for name in checked if self.sizes and name not in self.sizes]
        if missing:
            raise ConfigError(f'sizes have no entry for {missing[0]!r}{nearest_names(missing[0], self.sizes)}')
        sizes = {name: TensorSize(*self.sizes[name]) for name in checked if name in self.sizes}
        wrong = [name for name, size in sizes.items() if size.elements < 1 or size.scales < 0]
        if wrong:
            raise ConfigError(f'{wrong[0]!r} cannot have the size {sizes[wrong[0]]}')
        object.__setattr__(self, 'losses', checked)
        object.__setattr__(self, 'sizes', sizes)

    def within_average(self, bits: float) -> BitAllocation:
        """Return the best choice whose mean width over all elements is at most ``bits``.

        Raises:
            ConfigError: the widths do not reach so low; the message says what they reach.
        """
        sizes = self._known_sizes()
        total = sum(size.elements for size in sizes.values())
        return self._choose(lambda name, width: sizes[name].elements * width, bits, total, 'bits on average')

    def within_bytes(self, size: float) -> BitAllocation:
        """Return the best choice that takes at most so many bytes, scales included.

        Raises:
            ConfigError: the widths do not reach so low; the message says what they reach.
        """
        sizes = self._known_sizes()
        return self._choose(lambda name, width: sizes[name].stored_bytes(width), size, 1, 'bytes')

    def within_latency(self, milliseconds: float, table: Mapping[str, Mapping[int, float]]) -> BitAllocation:
        """Return the best choice whose latencies add up to at most so many milliseconds.

        Args:
            milliseconds: the budget.
            table: ``{tensor: {bits: milliseconds}}``; widths of ``losses`` that it lacks are not chosen.

        Raises:
            ConfigError: the table lacks a tensor or has no width in common with its losses, or the budget is less than
                the fastest choice takes; the message says how much that is.
        """
        for name, curve in self.losses.items():
            if name not in table:
                raise ConfigError(f'the table of latencies lacks {name!r}{nearest_names(name, table)}')
            _checked_latencies(name, table[name])
            if not set(curve) & set(table[name]):
                raise ConfigError(f'{name!r} has losses at {sorted(curve)} bits and latencies at {sorted(table[name])}')
        return self._choose(lambda name, width: table[name].get(width), milliseconds, 1, 'milliseconds')

    def uniform(self, bits: int) -> BitAllocation:
        """Return the allocation of one width to all tensors, for comparison.

        Raises:
            ConfigError: a tensor has no loss at this width.
        """
        lacking = [name for name, curve in self.losses.items() if bits not in curve]
        if lacking:
            raise ConfigError(f'{lacking[0]!r} has no loss at {bits} bits; known: {sorted(self.losses[lacking[0]])}')
        return self.of(dict.fromkeys(self.losses, bits))

    def of(self, bits: Mapping[str, int]) -> BitAllocation:
        """Return what given bits cost; the budget is their own mean width.

        Raises:
            ConfigError: a tensor is missing, or has no loss at its width.
        """
        sizes = self._known_sizes()
        for name, curve in self.losses.items():
            if bits.get(name) not in curve:
                raise ConfigError(f'{name!r} has losses at {sorted(curve)} bits, not at {bits.get(name)!r}')
        mean = self._mean(bits, sizes)
        return self._result({name: int(bits[name]) for name in self.losses}, mean, mean, 'bits on average')

    def _known_sizes(self) -> Mapping[str, TensorSize]:
        if not self.sizes:
            raise ConfigError('a budget of bits or bytes needs the sizes of the tensors: see weight_sizes')
        return self.sizes  # type: ignore[return-value]  # made so above

    def _choose(
        self, cost_of: Callable[[str, int], float | None], budget: float, divisor: float, unit: str
    ) -> BitAllocation:
        if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not math.isfinite(budget):
            raise ConfigError(f'the budget must be a number of {unit}, not {budget!r}')
        groups = {
            name: [
                Item(width, loss, cost)
                for width, loss in sorted(curve.items())
                for cost in [cost_of(name, width)]
                if cost is not None
            ]
            for name, curve in self.losses.items()
        }
        least = cheapest(groups.values())
        found = solve(groups, budget * divisor)
        if found is None:
            raise ConfigError(
                f'no choice of bits is within {budget:g} {unit}: the smallest one takes {least / divisor:.9g}; raise '
                'the budget, or give losses at fewer bits'
            )
        cost = math.fsum(item.cost for item in found.values())
        bits = {name: item.key for name, item in found.items()}
        return self._result(bits, cost / divisor, float(budget), unit)

    def _result(self, bits: dict[str, int], cost: float, budget: float, unit: str) -> BitAllocation:
        sizes: Any = self.sizes
        return BitAllocation(
            bits,
            math.fsum(self.losses[name][width] for name, width in bits.items()),
            cost,
            budget,
            unit,
            self._mean(bits, sizes) if sizes else math.fsum(bits.values()) / len(bits),
            sum(sizes[name].stored_bytes(width) for name, width in bits.items()) if sizes else 0,
        )

    def _mean(self, bits: Mapping[str, int], sizes: Mapping[str, TensorSize]) -> float:
        used = sum(sizes[name].elements * bits[name] for name in self.losses)
        return used / sum(size.elements for size in sizes.values())


def _checked_curve(name: str, curve: Mapping[int, float]) -> dict[int, float]:
    found = {}
    for width, loss in curve.items():
        if isinstance(width, bool) or int(width) != width or not (2 <= width <= 16 or width == FLOAT_BITS):
            raise ConfigError(f'{name!r} cannot have {width!r} bits: 2 to 16, or {FLOAT_BITS} for float')
        if not math.isfinite(loss):
            raise ConfigError(f'the loss of {name!r} at {width} bits is {loss}')
        found[int(width)] = float(loss)
    if not found:
        raise ConfigError(f'{name!r} has no loss at any width')
    return found


def _checked_latencies(name: str, row: Mapping[int, float]) -> None:
    wrong: Iterable[tuple[int, float]] = ((k, v) for k, v in row.items() if not (math.isfinite(v) and v >= 0))
    for width, value in wrong:
        raise ConfigError(f'the latency of {name!r} at {width} bits is {value} ms')
