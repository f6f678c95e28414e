"""Reading Paddle Lite's ``.nb`` files: which kernels are in one, for which device and precision, and its sizes.

The layout of meta version 2: a 16-bit version, 16 bytes with the version of the converter, a 64-bit size, a flatbuffer
of that size with the program, and the parameters, each preceded by its size. Every operator of the program carries one
string ``operator/alias/target/precision/layout`` that names its kernel.
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from paddleslim_ng.errors import CheckpointError, DataError

__all__ = ['Kernel', 'NbFile', 'clear_header', 'read_nb']

TARGETS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: 'host',
        2: 'x86',
        4: 'arm',
        5: 'opencl',
        6: 'any',
        7: 'fpga',
        9: 'xpu',
        10: 'bm',
        11: 'mlu',
        12: 'rknpu',
        13: 'apu',
        14: 'huawei_ascend_npu',
        15: 'imagination_nna',
        16: 'intel_fpga',
        17: 'metal',
        18: 'nnadapter',
    }
)
PRECISIONS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: 'fp32',
        2: 'int8',
        3: 'int32',
        4: 'any',
        5: 'fp16',
        6: 'bool',
        7: 'int64',
        8: 'int16',
        9: 'uint8',
        10: 'fp64',
    }
)
LAYOUTS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: 'NCHW',
        2: 'any',
        3: 'NHWC',
        4: 'image default',
        5: 'image folder',
        6: 'image NW',
        7: 'texture array',
        8: 'texture',
    }
)
_HEADER = struct.Struct('<H16sQ')
_PARAMETERS = struct.Struct('<HHHHI')
_SIZE = struct.Struct('<I')
_META_VERSION = 2
# A string of a flatbuffer follows its length, whose highest byte is zero, and ends with a zero.
_KERNEL = re.compile(rb'(?<=\x00)(\w+)/([\w.+-]+)/(\d{1,3})/(\d{1,3})/(\d{1,3})(?=\x00)')
# These carry data in and out and say nothing about the precision of the network.
_CARRIERS = frozenset({'feed', 'fetch', 'io_copy', 'io_copy_once', 'layout', 'layout_once', 'calib', 'calib_once'})


@dataclass(frozen=True)
class Kernel:
    """One operator's kernel.

    Attributes:
        op: operator type.
        alias: which of several kernels.
        target: device: ``'arm'``, ``'x86'``, ``'opencl'``, ``'host'``, ...
        precision: ``'fp32'``, ``'int8'``, ``'fp16'``, ``'any'``, ...
        layout: memory layout: ``'NCHW'``, ``'image default'``, ...
    """

    op: str
    alias: str
    target: str
    precision: str
    layout: str

    def __str__(self) -> str:
        return f'{self.op}/{self.alias} {self.target} {self.precision} {self.layout}'


@dataclass(frozen=True)
class NbFile:
    """What a ``.nb`` file says about itself.

    Attributes:
        path: the file.
        meta_version: version of the file format.
        opt_version: version of the converter that wrote it; the library on the device must have the same.
        kernels: one per operator, in the order of execution.
        file_bytes: size of the file.
        topology_bytes: size of the program in it.
        parameter_bytes: size of the parameters in it, with their headers.
        parameter_count: number of parameter tensors.
    """

    path: Path
    meta_version: int
    opt_version: str
    kernels: tuple[Kernel, ...]
    file_bytes: int
    topology_bytes: int
    parameter_bytes: int
    parameter_count: int

    def of_precision(self, precision: str) -> tuple[Kernel, ...]:
        """Return the kernels of a precision, such as ``'int8'``, that compute something."""
        return tuple(k for k in self.kernels if k.precision == precision and k.op not in _CARRIERS)

    @property
    def int8_kernels(self) -> tuple[Kernel, ...]:
        """The kernels that compute in 8-bit integers."""
        return self.of_precision('int8')

    @property
    def fp16_kernels(self) -> tuple[Kernel, ...]:
        """The kernels that compute in 16-bit floating point."""
        return self.of_precision('fp16')

    @property
    def sparse_kernels(self) -> tuple[Kernel, ...]:
        """The kernels that skip zero weights."""
        return tuple(k for k in self.kernels if k.op.startswith('sparse_'))

    def on_target(self, target: str) -> tuple[Kernel, ...]:
        """Return the kernels that run on a device, such as ``'arm'``."""
        return tuple(k for k in self.kernels if k.target == target)

    @property
    def targets(self) -> tuple[str, ...]:
        """The devices that the kernels need, besides the host."""
        return tuple(sorted({k.target for k in self.kernels} - {'host', 'any'}))

    def counts(self) -> dict[str, int]:
        """Return ``{'conv2d arm int8': 14, ...}``, most frequent first, without what only carries data."""
        found = Counter(f'{k.op} {k.target} {k.precision}' for k in self.kernels if k.op not in _CARRIERS)
        return dict(found.most_common())

    def __str__(self) -> str:
        kernels = ', '.join(f'{count} x {name}' for name, count in self.counts().items())
        return f'{self.path.name}: {self.file_bytes} bytes, opt {self.opt_version}, {kernels}'


def read_nb(path: str | os.PathLike[str]) -> NbFile:
    """Read a ``.nb`` file's kernels and sizes.

    Raises:
        DataError: there is no such file, or it cannot be read.
        CheckpointError: the file is no ``.nb`` file of a known version, or it is truncated or damaged.

    Example:
        >>> print(read_nb('net.nb'))
    """
    target = Path(path)
    try:
        content = target.read_bytes()
    except OSError as error:
        raise DataError(f'cannot read {os.fspath(path)!r}: {error}') from error
    meta, opt, size = _header(content, target)
    start = _HEADER.size
    kernels = tuple(_kernels(content[start : start + size]))
    if not kernels:
        raise _damaged(target, 'its program names no kernel')
    return NbFile(
        path=target,
        meta_version=meta,
        opt_version=opt,
        kernels=kernels,
        file_bytes=len(content),
        topology_bytes=size,
        parameter_bytes=len(content) - start - size,
        parameter_count=_count_parameters(content, start + size, target),
    )


def clear_header(path: Path) -> None:
    """Set to zero what stands behind the converter's version, so that a model gives the same file each time.

    The version is a string in a field that the converter fills up with whatever is on its stack. A file of another
    layout stays as it is.
    """
    with path.open('r+b') as file:
        start = file.read(_HEADER.size)
        if len(start) == _HEADER.size and int.from_bytes(start[:2], 'little') == _META_VERSION:
            meta, version, size = _HEADER.unpack(start)
            file.seek(0)
            file.write(_HEADER.pack(meta, version.split(b'\0', 1)[0], size))


def _header(content: bytes, path: Path) -> tuple[int, str, int]:
    if len(content) < _HEADER.size:
        raise _damaged(path, f'it has {len(content)} bytes')
    meta, version, size = _HEADER.unpack_from(content)
    if meta != _META_VERSION:
        raise CheckpointError(f'{path} is no .nb file of format {_META_VERSION}: it begins with {content[:2]!r}')
    opt = version.split(b'\0', 1)[0]
    if not re.fullmatch(rb'[\w.+-]+', opt):
        raise _damaged(path, f'its version reads {opt!r}')
    if _HEADER.size + size > len(content):
        raise _damaged(path, f'its program should take {size} bytes, and the file has {len(content)}')
    return meta, opt.decode('ascii', 'replace'), size


def _kernels(topology: bytes) -> Iterator[Kernel]:
    """Yield the kernels in the order of execution, which is the reverse of the order in the buffer."""
    for match in reversed(list(_KERNEL.finditer(topology))):
        if topology[match.start() - _SIZE.size : match.start()] != _SIZE.pack(len(match[0])):
            continue
        target, precision, layout = (int(number) for number in match.groups()[2:])
        yield Kernel(
            match[1].decode('ascii', 'replace'),
            match[2].decode('ascii', 'replace'),
            TARGETS.get(target, f'target {target}'),
            PRECISIONS.get(precision, f'precision {precision}'),
            LAYOUTS.get(layout, f'layout {layout}'),
        )


def _count_parameters(content: bytes, start: int, path: Path) -> int:
    """Walk over the parameters to the end of the file and return their number."""
    if len(content) < start + _PARAMETERS.size:
        raise _damaged(path, 'the parameters are missing')
    *_, count, _ = _PARAMETERS.unpack_from(content, start)
    position = start + _PARAMETERS.size
    for index in range(count):
        if position + _SIZE.size > len(content):
            raise _damaged(path, f'it ends after {index} of {count} parameters')
        position += _SIZE.size + int(_SIZE.unpack_from(content, position)[0])
    if position != len(content):
        raise _damaged(path, f'its {count} parameters should end at byte {position}, and the file at {len(content)}')
    return int(count)


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f'{path} is truncated or damaged: {what}. Convert the model again')
