"""What every layer alone, quantized to several widths, does to the outputs; and the same around a choice of widths."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.bits import FLOAT_BITS, BitAllocation, BitAllocator, TensorSize, weight_sizes
from paddleslim_ng.quant.measurements_file import MeasurementsFile, identity_of
from paddleslim_ng.quant.spec import largest_integer
from paddleslim_ng.quant.variants import Metric, QuantizedVariants, check_metric

__all__ = ['KINDS_OF_SENSITIVITY', 'BitSensitivities', 'bit_sensitivity', 'refine_bits']

_LOG = logging.getLogger(__name__)
#: What is quantized of a layer: its weight, the activations that it reads, or both to the same width.
KINDS_OF_SENSITIVITY: Final = ('weights', 'activations', 'both')


@dataclass(frozen=True)
class BitSensitivities:
    """What quantizing single layers costs.

    Attributes:
        losses: ``{layer: {bits: loss}}``; a layer goes by the name of its weight, or of its activation.
        tensors: by layer, the tensors that take its bits.
        sizes: by layer: of the weight; of the activation for one image where only that is quantized.
        metric: how losses were measured.
    """

    losses: Mapping[str, Mapping[int, float]]
    tensors: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, TensorSize]
    metric: str

    def allocator(self) -> BitAllocator:
        """Return what chooses bits by these losses."""
        return BitAllocator(self.losses, self.sizes)

    def tensor_bits(self, bits: Mapping[str, int]) -> dict[str, int]:
        """Return the bits of tensors for those of layers.

        Raises:
            ConfigError: there is no such layer.
        """
        unknown = [name for name in bits if name not in self.tensors]
        if unknown:
            raise ConfigError(f'{unknown[0]!r} is no layer; known: {list(self.tensors)}')
        return {name: width for layer, width in bits.items() for name in self.tensors[layer]}

    def ranked(self, bits: int) -> list[tuple[str, float]]:
        """Return the layers with their losses at a width, the most sensitive one first."""
        found = [(name, curve[bits]) for name, curve in self.losses.items() if bits in curve]
        return sorted(found, key=lambda row: (-row[1], row[0]))

    def __str__(self) -> str:
        """Report as a table, layers in program order."""
        widths = sorted({bits for curve in self.losses.values() for bits in curve})
        lines = [f'loss ({self.metric}) of single layers at {", ".join(map(str, widths))} bits']
        for name, curve in self.losses.items():
            cells = ' '.join(f'{curve[bits]:10.3g}' if bits in curve else ' ' * 10 for bits in widths)
            lines.append(f'{cells}  {name}')
        return '\n'.join(lines)


def bit_sensitivity(
    variants: QuantizedVariants,
    *,
    bits: Iterable[int] = (2, 3, 4, 6, 8),
    kind: str = 'weights',
    metric: Metric = 'kl',
    around: Mapping[str, int] | None = None,
    file: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> BitSensitivities:
    """Measure what each layer costs when it alone is quantized, at several widths.

    Args:
        variants: the model with its data, calibrated once; see :class:`QuantizedVariants`.
        bits: widths, 2 to 16; 32 measures a layer in float, which is of use with ``around``.
        kind: one of :data:`KINDS_OF_SENSITIVITY`. With ``'both'``, layers that read the same tensor are one layer.
        metric: ``'kl'``, ``'mse'`` or ``'cosine'`` of the outputs against those in float; or a function of an
            ``InferenceModel`` that returns a number, the larger the better, from whose value in float that of the
            quantized model is subtracted.
        around: bits of all tensors; each layer's bits are varied while the others stay at these. In float where None.
        file: JSON file that keeps the results, replaced atomically after each evaluation. Results that it holds are not
            measured again. It is bound to the network, the data and the settings; of a function it knows the name only.
        progress: show a bar with the time left; where None, if the standard error is a terminal.

    Raises:
        ConfigError: an unknown kind, metric or width.
        DataError: outputs, or a metric, that are not finite.
        CheckpointError: the file belongs to something else, is damaged or cannot be written.

    Example:
        >>> sensitivities = slim.quant.bit_sensitivity(variants, file='bits.json')
        >>> print(sensitivities.allocator().within_average(3.0))
    """
    widths = _checked_widths(bits)
    check_metric(metric)
    layers = layers_of(variants, kind)
    fixed = dict(around or {})
    state = MeasurementsFile.resume(file, _identity(variants, metric, fixed) if file is not None else {})
    todo = [(name, width) for name in layers for width in widths if state.known(name, str(width)) is None]
    baseline = None if isinstance(metric, str) or not todo else _baseline(variants, metric, state)
    from tqdm import tqdm

    hide = None if progress is None else not progress
    for name, width in tqdm(todo, desc='bit sensitivity', unit='evaluation', disable=hide):
        wanted = {**fixed, **dict.fromkeys(layers[name], width)}
        loss = variants.loss(wanted, metric, baseline)
        state.add(name, str(width), loss)
        _LOG.debug('%s at %d bits: loss %.6g', name, width, loss)
    losses = {name: {width: state.values[name][str(width)] for width in widths} for name in layers}
    return BitSensitivities(losses, layers, _sizes(variants, layers), _name_of(metric))


def refine_bits(
    variants: QuantizedVariants,
    sensitivities: BitSensitivities,
    allocate: Callable[[BitAllocator], BitAllocation],
    *,
    metric: Metric = 'kl',
    rounds: int = 3,
) -> BitAllocation:
    """Choose bits, measure each layer's losses again around the choice, and choose anew while that helps.

    Losses of layers that are quantized together do not add up where errors are large. Around the present choice, the
    difference that one layer's width makes is exact; a step that changes several layers is taken only if the outputs,
    with all of it, are better than before, and else tried again with half of the changes.

    Args:
        variants: the model with its data.
        sensitivities: of single layers, where the first choice comes from.
        allocate: makes a choice within the budget, such as ``lambda allocator: allocator.within_average(3)``.
        metric: see :func:`bit_sensitivity`.
        rounds: how often all layers are measured again.

    Returns:
        The best choice seen. Its ``loss`` is that of all layers together, as measured.

    Raises:
        ConfigError: no choice is within the budget, or an unknown metric.

    Example:
        >>> best = slim.quant.refine_bits(variants, sensitivities, lambda allocator: allocator.within_average(3))
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise ConfigError(f'rounds must be a whole number that is not negative, not {rounds!r}')
    check_metric(metric)
    work = _Refinement(variants, sensitivities, allocate, metric)
    for _ in range(rounds):
        if not work.improve():
            break
    return work.best()


class _Refinement:
    """The present choice, and how good it is."""

    def __init__(
        self,
        variants: QuantizedVariants,
        sensitivities: BitSensitivities,
        allocate: Callable[[BitAllocator], BitAllocation],
        metric: Metric,
    ) -> None:
        self._variants, self._sensitivities = variants, sensitivities
        self._allocate, self._metric = allocate, metric
        self._baseline = None if isinstance(metric, str) else variants.metric({}, metric)
        self._allocation = allocate(sensitivities.allocator())
        self._loss = self._measure(self._allocation.bits)

    def best(self) -> BitAllocation:
        found = self._allocation
        return BitAllocation(
            found.bits, self._loss, found.cost, found.budget, found.unit, found.average_bits, found.stored_bytes
        )

    def improve(self) -> bool:
        """Take the best step that the losses around the present choice lead to; tell whether there was one."""
        losses = self._losses_around()
        present = self._allocation.bits
        free: Sequence[str] = list(losses)
        while free:
            allowed = {
                name: curve if name in free else {present[name]: curve[present[name]]} for name, curve in losses.items()
            }
            step = self._allocate(BitAllocator(allowed, self._sensitivities.sizes))
            changed = [name for name in losses if step.bits[name] != present[name]]
            if not changed:
                return False
            loss = self._measure(step.bits)
            if loss < self._loss:
                _LOG.debug('%d layers changed, loss %.6g -> %.6g', len(changed), self._loss, loss)
                self._allocation, self._loss = step, loss
                return True
            changed.sort(key=lambda name: losses[name][step.bits[name]] - losses[name][present[name]])
            free = changed[: len(changed) // 2] + changed[len(changed) - (len(changed) + 2) // 4 :]
            free = free if len(free) < len(changed) else changed[:-1]
        return False

    def _losses_around(self) -> dict[str, dict[int, float]]:
        present = self._allocation.bits
        found: dict[str, dict[int, float]] = {}
        for name, curve in self._sensitivities.losses.items():
            found[name] = {
                bits: self._loss if bits == present[name] else self._measure({**present, name: bits}) for bits in curve
            }
        return found

    def _measure(self, bits: Mapping[str, int]) -> float:
        return self._variants.loss(self._sensitivities.tensor_bits(bits), self._metric, self._baseline)


def layers_of(variants: QuantizedVariants, kind: str) -> dict[str, tuple[str, ...]]:
    """Return the tensors that take one width, by the name of their layer, in program order.

    Raises:
        ConfigError: an unknown kind, or one that the model has no tensors of.
    """
    if kind not in KINDS_OF_SENSITIVITY:
        raise ConfigError(f'unknown kind {kind!r} of sensitivity; known: {list(KINDS_OF_SENSITIVITY)}')
    spec = variants.template
    if kind == 'both':
        groups = _joined([set(names) for names in spec.operators.values()])
        ordered = [tuple(name for name in spec.tensors if name in group) for group in groups]
        weights = {tensor.name for tensor in spec.of_kind('weight')}
        return {next((name for name in group if name in weights), group[0]): group for group in ordered}
    wanted = {tensor.name for tensor in spec.of_kind('weight' if kind == 'weights' else 'activation')}
    names = dict.fromkeys(name for reads in spec.operators.values() for name in reads if name in wanted)
    if not names:
        raise ConfigError(f'the model has no {kind} that can be quantized')
    return {name: (name,) for name in names}


def _joined(groups: Sequence[set[str]]) -> list[set[str]]:
    """Join groups that have something in common."""
    found: list[set[str]] = []
    for group in groups:
        touching = [other for other in found if other & group]
        merged = group.union(*touching)
        if touching:
            place = found.index(touching[0])
            found = [other for other in found if other not in touching]
            found.insert(place, merged)
        else:
            found.append(merged)
    return found


def _sizes(variants: QuantizedVariants, layers: Mapping[str, Sequence[str]]) -> dict[str, TensorSize]:
    weights = weight_sizes(variants.template, variants.source.scope)
    found = {}
    for layer, names in layers.items():
        rows = [weights[name] for name in names if name in weights]
        if not rows:
            seen = [variants.statistics[name] for name in names]
            rows = [TensorSize(item.elements // item.rows, 1) for item in seen]
        found[layer] = TensorSize(sum(row.elements for row in rows), sum(row.scales for row in rows))
    return found


def _checked_widths(bits: Iterable[int]) -> tuple[int, ...]:
    found = tuple(sorted(set(bits)))
    if not found:
        raise ConfigError('bits must hold at least one width')
    for width in found:
        if width != FLOAT_BITS:
            largest_integer(width)
    return tuple(map(int, found))


def _baseline(variants: QuantizedVariants, metric: Callable[..., Any], state: MeasurementsFile) -> float:
    known = state.known('', 'float')
    if known is None:
        known = variants.metric({}, metric)
        state.add('', 'float', known)
    return known


def _identity(variants: QuantizedVariants, metric: Metric, around: Mapping[str, int]) -> dict[str, str]:
    return identity_of(
        variants.source,
        variants.feeds,
        settings=variants.settings,
        metric=_name_of(metric),
        around=sorted(around.items()),
    )


def _name_of(metric: Metric) -> str:
    return metric if isinstance(metric, str) else str(getattr(metric, '__qualname__', type(metric).__qualname__))
