"""Quantization as data: which tensors are integers, on what scale, and which operators read them so.

Programs and files are made from it: :func:`paddleslim_ng.quant.simulate` and
:func:`paddleslim_ng.quant.export_quantized`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.quant.groups import check_group_size, group_count
from paddleslim_ng.runtime.atomic import atomic_write

__all__ = ['KINDS', 'QuantizationSpec', 'TensorQuantization', 'largest_integer']

KINDS: Final = ('weight', 'activation')
_BITS: Final = range(2, 17)
_FORMAT: Final = 'paddleslim_ng.quantization'
_VERSION: Final = 1


def largest_integer(bits: int) -> int:
    """Return the largest of the symmetric signed integers of a width: ``2 ** (bits - 1) - 1``.

    Raises:
        ConfigError: ``bits`` is no whole number from 2 to 16.
    """
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or bits not in _BITS:
        raise ConfigError(f'bits must be a whole number from {_BITS[0]} to {_BITS[-1]}, not {bits!r}')
    return int(2 ** (int(bits) - 1) - 1)


@dataclass(frozen=True, eq=False)
class TensorQuantization:
    """How one tensor becomes integers: ``q = clip(round(x / scale) + zero_point, -n, n)``, ``n = 2**(bits-1) - 1``.

    Halves are rounded away from zero. The tensor then stands for ``(q - zero_point) * scale``.

    Attributes:
        name: of the tensor in the program.
        bits: width of the integers, 2 to 16.
        scale: step between neighbouring integers, float32: ``[1]``; ``[channels]``, one for every position along
            ``axis``; or ``[channels, groups]``.
        axis: axis along which scales differ; None for one scale.
        zero_point: the integer that stands for zero.
        kind: ``'weight'`` (a parameter) or ``'activation'``.
        group_axis: of a weight with groups, the axis of its inputs: within each channel, every ``group_size``
            neighbours along it share a scale; the last group may be smaller. None without groups.
        group_size: how many neighbours.

    Raises:
        ConfigError: a scale that is not finite and positive, or another field of no use.
    """

    name: str
    bits: int
    scale: npt.NDArray[np.float32]
    axis: int | None = None
    zero_point: int = 0
    kind: str = 'activation'
    group_axis: int | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        """Check the fields, and keep a copy of the scale that nobody can write to."""
        limit = largest_integer(self.bits)
        if self.kind not in KINDS:
            raise ConfigError(f'kind of {self.name!r} must be one of {list(KINDS)}, not {self.kind!r}')
        with np.errstate(over='ignore', under='ignore'):  # what does not fit is found below
            scale = np.array(self.scale, dtype=np.float32)
        scale = scale.reshape(-1) if self.group_axis is None else scale
        if not scale.size or not np.all(np.isfinite(scale) & (scale > 0)):
            raise ConfigError(
                f'the scale of {self.name!r} must be finite and positive in float32, not {self.scale!r}; a tensor of '
                'zeros may have any such scale'
            )
        if self.axis is None and scale.size != 1:
            raise ConfigError(f'{self.name!r} has {scale.size} scales and no axis along which they differ')
        if self.axis is not None and (self.kind == 'activation' or self.axis < 0):
            raise ConfigError(f'axis of {self.name!r} must be None, or for a weight 0, 1, ...; not {self.axis!r}')
        self._check_groups(scale)
        if not -limit <= self.zero_point <= limit:
            raise ConfigError(f'zero_point of {self.name!r} must be from {-limit} to {limit}, not {self.zero_point}')
        scale.flags.writeable = False
        object.__setattr__(self, 'scale', scale)

    def _check_groups(self, scale: npt.NDArray[np.float32]) -> None:
        if self.group_axis is None and self.group_size is None:
            return
        check_group_size(self.group_size)
        if self.axis is None or self.group_axis is None or self.group_axis < 0 or self.group_axis == self.axis:
            raise ConfigError(
                f'groups of {self.name!r} want a weight with channels along one axis and inputs along another, not '
                f'axis={self.axis!r} and group_axis={self.group_axis!r}'
            )
        if scale.ndim != 2:
            raise ConfigError(f'{self.name!r} has groups, and scales of shape {list(scale.shape)}: [channels, groups]')

    @property
    def limit(self) -> int:
        """Largest integer; the smallest one is ``-limit``."""
        return largest_integer(self.bits)

    @property
    def channels(self) -> int:
        """Number of positions along ``axis``, 1 without one."""
        return 1 if self.axis is None else len(self.scale)

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether an array of this shape has the channels and groups that the scales are for."""
        if self.axis is not None and (self.axis >= len(shape) or shape[self.axis] != self.channels):
            return False
        if self.group_axis is None or self.group_size is None:
            return True
        groups = self.scale.shape[1]
        return self.group_axis < len(shape) and groups == group_count(shape[self.group_axis], self.group_size)

    @property
    def threshold(self) -> npt.NDArray[np.float32]:
        """Largest value that is not cut off where ``zero_point`` is 0, float32, for each scale."""
        return (self.scale * np.float32(self.limit)).astype(np.float32)

    def __eq__(self, other: object) -> bool:
        """Tell whether all fields are equal."""
        if not isinstance(other, TensorQuantization):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """Hash by name and bits."""
        return hash((self.name, self.bits, self.kind))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them; scales keep every bit."""
        found = {
            'name': self.name,
            'kind': self.kind,
            'bits': int(self.bits),
            'axis': self.axis,
            'zero_point': int(self.zero_point),
            'scale': self.scale.tolist(),
        }
        if self.group_axis is None:
            return found
        return {**found, 'group_axis': int(self.group_axis), 'group_size': self.group_size}


@dataclass(frozen=True)
class QuantizationSpec:
    """The quantization of a program.

    Attributes:
        tensors: by name, the tensors that become integers.
        operators: by the name of its first output, for each quantized operator, the names of the tensors that it reads
            quantized. Other readers of these tensors read them in float.
        skipped: by the name of its first output, for each operator that could have been quantized, why it is not.

    Raises:
        ConfigError: the parts contradict each other.
    """

    tensors: Mapping[str, TensorQuantization]
    operators: Mapping[str, tuple[str, ...]]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts fit together, and freeze them."""
        for name, tensor in self.tensors.items():
            if tensor.name != name:
                raise ConfigError(f'the tensor {tensor.name!r} stands under the name {name!r}')
        for output, names in self.operators.items():
            unknown = [name for name in names if name not in self.tensors]
            if unknown or not names:
                what = f'{unknown}, which are not among the tensors' if unknown else 'nothing'
                raise ConfigError(f'the operator that makes {output!r} reads quantized: {what}')
        both = sorted(set(self.operators) & set(self.skipped))
        if both:
            raise ConfigError(f'the operators that make {both} are quantized and skipped')
        object.__setattr__(self, 'tensors', MappingProxyType(dict(self.tensors)))
        object.__setattr__(
            self, 'operators', MappingProxyType({key: tuple(names) for key, names in self.operators.items()})
        )
        object.__setattr__(self, 'skipped', MappingProxyType(dict(self.skipped)))

    def of_kind(self, kind: str) -> list[TensorQuantization]:
        """Return the tensors of a kind, ``'weight'`` or ``'activation'``."""
        return [tensor for tensor in self.tensors.values() if tensor.kind == kind]

    def only(self, outputs: Collection[str], reason: str = 'left out') -> QuantizationSpec:
        """Return the quantization of some of the operators alone, named by their first outputs.

        Args:
            outputs: names.
            reason: stands in ``skipped`` for the others.

        Raises:
            ConfigError: one of them is not quantized.
        """
        unknown = [name for name in outputs if name not in self.operators]
        if unknown:
            raise ConfigError(f'no operators that make {unknown} are quantized; known: {list(self.operators)}')
        kept = {name: reads for name, reads in self.operators.items() if name in outputs}
        read = {name for reads in kept.values() for name in reads}
        dropped = {name: reason for name in self.operators if name not in kept}
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in read}
        return QuantizationSpec(tensors, kept, {**self.skipped, **dropped})

    def without(self, outputs: Iterable[str], reason: str = 'left out') -> QuantizationSpec:
        """Return the quantization of all operators but some, named by their first outputs; see :meth:`only`."""
        left = set(outputs)
        self.only(left)
        return self.only([name for name in self.operators if name not in left], reason)

    def to_json(self) -> str:
        """Return the whole content as JSON text."""
        return json.dumps(
            {
                'format': _FORMAT,
                'version': _VERSION,
                'tensors': [tensor.to_dict() for tensor in self.tensors.values()],
                'operators': {name: list(reads) for name, reads in self.operators.items()},
                'skipped': dict(self.skipped),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> QuantizationSpec:
        """Return what :meth:`to_json` wrote.

        Raises:
            CheckpointError: the text is damaged, of another version, or something else.
        """
        try:
            found = json.loads(text)
            if found['format'] != _FORMAT or found['version'] != _VERSION:
                raise ValueError(f'{found["format"]} of version {found["version"]}, not {_FORMAT} of {_VERSION}')
            tensors = [TensorQuantization(**{**item, 'scale': np.array(item['scale'])}) for item in found['tensors']]
            reads = {name: tuple(names) for name, names in found['operators'].items()}
            return cls({tensor.name: tensor for tensor in tensors}, reads, found['skipped'])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f'this is no quantization that was saved: {error}') from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file in one step.

        Raises:
            OSError: the folder is missing or not writable.
        """
        atomic_write(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> QuantizationSpec:
        """Read the file that :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged or something else.
        """
        try:
            text = Path(path).read_text('utf-8')
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f'cannot read a quantization from {os.fspath(path)}: {error}') from error
        try:
            return cls.from_json(text)
        except CheckpointError as error:
            raise CheckpointError(f'{os.fspath(path)}: {error}') from error
