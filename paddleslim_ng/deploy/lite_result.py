"""What :func:`paddleslim_ng.deploy.to_lite` returns, and what it checks in the file that the converter wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.deploy.kernel_count import kernels_in_nb
from paddleslim_ng.deploy.lite_options import PRECISIONS, TARGETS
from paddleslim_ng.deploy.lite_sparsity import SparseLayer
from paddleslim_ng.deploy.nb import Kernel, NbFile
from paddleslim_ng.deploy.quantized_verdict import DEFECTS
from paddleslim_ng.deploy.verification import Verification
from paddleslim_ng.errors import DeployError

__all__ = ['LiteModel', 'check_kernels', 'find_warnings']

_CONVOLUTIONS = frozenset({'conv2d', 'depthwise_conv2d'})
_ROUND = 8


@dataclass(frozen=True)
class LiteModel:
    """A ``.nb`` file that was converted, read back and published.

    Attributes:
        file: where it is.
        target: device that was asked for.
        precision: precision that was asked for.
        nb: kernels and sizes, read back from the file.
        source_bytes: size of the ``.pdmodel`` and the ``.pdiparams`` that went into the converter.
        changes: operators that each pass of :mod:`paddleslim_ng.deploy.legalize` rewrote.
        warnings: what to know before the file is used.
        verification: the comparison with the model; None where it was not asked for.
        reference: the model that was converted: its path prefix, or a copy of the program with its parameters.
        sparse_layers: where sparse kernels were asked for, every convolution with zero weights, and its kernel.
    """

    file: Path
    target: str
    precision: str
    nb: NbFile
    source_bytes: int
    changes: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    verification: Verification | None = None
    reference: Any = field(default=None, repr=False)
    sparse_layers: tuple[SparseLayer, ...] = ()

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The file's kernels, in the order of execution."""
        return self.nb.kernels

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.nb.file_bytes

    @property
    def opt_version(self) -> str:
        """Version of the converter, and so of the library that the device needs."""
        return self.nb.opt_version

    @property
    def _unexecuted(self) -> str:
        return '' if self.nb.targets == ('x86',) else '; structure verified, not executed'

    @property
    def summary(self) -> str:
        """Size and kernels, in one line."""
        kernels = str(kernels_in_nb(self.nb)) if self.precision == 'int8' else f'{len(self.kernels)} kernels'
        return (
            f'{self.file.name} for Paddle Lite {self.opt_version} on {self.target}: {self.file_bytes:,} bytes, '
            f'{kernels}{self._unexecuted}'
        )

    @property
    def report(self) -> str:
        """Everything, in lines."""
        rewritten = ', '.join(f'{name} {count}' for name, count in self.changes.items() if count) or 'nothing'
        lines = [
            f'{self.file} for {self.target}, {self.precision}, needs Paddle Lite {self.opt_version}',
            f'size: {self.source_bytes} -> {self.file_bytes} bytes ({self.file_bytes / self.source_bytes:.3f})',
            f'legalized: {rewritten}',
            'kernels: ' + ', '.join(f'{count} x {name}' for name, count in self.nb.counts().items()),
            *([f'{kernels_in_nb(self.nb)}{self._unexecuted}'] if self.precision == 'int8' else []),
            *map(str, self.sparse_layers),
            *([str(self.verification)] if self.verification is not None else []),
            *(f'warning: {text}' for text in self.warnings),
        ]
        return '\n'.join(lines)

    def __str__(self) -> str:
        return self.report


def check_kernels(nb: NbFile, target: str, precision: str, sparse: float | None) -> None:
    """Check that a converted file holds what was asked for.

    Raises:
        DeployError: it has no kernel for the device, of the precision, or for sparse weights.
    """
    device, wanted = TARGETS[target].device, PRECISIONS[precision].kernels
    held = f'it has {nb.counts()}'
    if not nb.on_target(device):
        raise DeployError(f'nothing of the model runs on {target!r}: {held}')
    if wanted and not nb.of_precision(wanted):
        raise DeployError(f'{precision!r} was asked for and Paddle Lite chose no {wanted} kernel on {target!r}: {held}')
    if sparse is not None and not nb.sparse_kernels:
        raise DeployError(
            f'no sparse kernel was chosen: Paddle Lite has them for 1x1 convolutions on Arm of whose weights at least '
            f'{sparse:g} are zero. Prune these further, lower the threshold, or leave sparse out ({held})'
        )


def find_warnings(
    nb: NbFile, program: Any, target: str, precision: str, dense_bytes: int | None = None
) -> tuple[str, ...]:
    """List what to know before a converted file is used.

    Args:
        nb: the file.
        program: the legacy program that was converted.
        target: device that was asked for.
        precision: precision that was asked for.
        dense_bytes: size of the file without sparse kernels, where some were asked for.
    """
    found = [
        f'the Paddle Lite library on the device must be {nb.opt_version}, the version of the converter: others may '
        'refuse the file or compute something else'
    ]
    odd = _odd_channels(program)
    if odd:
        shown = ', '.join(f'{name} {count}' for name, count in odd[:5])
        found.append(
            f'{len(odd)} convolutions have output channels that are no multiple of {_ROUND} ({shown}'
            f'{", ..." if len(odd) > 5 else ""}), which can be slower than more channels; prune with round_to={_ROUND}'
        )
    if PRECISIONS[precision].storage:
        found.append(f'{precision} shrinks the file only: the kernels compute in floating point, no faster than fp32')
    if dense_bytes is not None and nb.file_bytes > dense_bytes:
        found.append(f'the sparse file is larger than the dense one: {nb.file_bytes} bytes against {dense_bytes}')
    if precision == 'int8':
        found += _int8_warnings(nb, target)
    return tuple(found)


def _int8_warnings(nb: NbFile, target: str) -> list[str]:
    found = []
    count = kernels_in_nb(nb)
    if count.floats:
        kinds = ', '.join(sorted(count.floats))
        found.append(f'{count.total - count.int8} of {count.total} convolutions and products are not int8: {kinds}')
    if target == 'x86':
        found.append(
            'the int8 kernels of Paddle Lite on x86 are slower than its fp32 and less exact than the simulation; on '
            'narrow layers predictors of one file have disagreed. For int8 on x86 use Paddle Inference'
        )
        if count.int8_products:
            found.append(f'{count.int8_products} x int8 fc: {DEFECTS["lite_x86"]}')
    return found


def _odd_channels(program: Any) -> list[tuple[str, int]]:
    """List the convolutions' filters whose number of output channels is no multiple of eight."""
    filters = [op.inputs('Filter')[0] for op in GraphWrapper(program).ops() if op.type() in _CONVOLUTIONS]
    return [(var.name(), var.shape()[0]) for var in filters if var.shape() and var.shape()[0] % _ROUND]
