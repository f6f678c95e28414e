"""Reading .nb files: one made by hand, byte by byte, and real ones, whole and damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from paddleslim_ng.deploy.nb import Kernel, read_nb
from paddleslim_ng.errors import CheckpointError, DataError

KERNELS = ('feed/def/1/4/2', 'conv2d/int8_out/4/2/1', 'fc/image2d/5/5/5', 'sparse_conv2d/def/4/1/1', 'calib/def/4/2/1')


def string(text: str) -> bytes:
    """A string as flatbuffers store it."""
    data = text.encode()
    return struct.pack('<I', len(data)) + data + b'\0' * (4 - len(data) % 4)


def content(*, meta: int = 2, version: bytes = b'v2.13-rc', parameters: tuple[int, ...] = (10, 300)) -> bytes:
    # The last operator comes first; a name like a kernel's in a longer string is none.
    strings = [*reversed(KERNELS), 'conv2d', 'a conv2d/def/4/1/1 in a longer string']
    topology = b'\0' * 8 + b''.join(map(string, strings)) + b'conv2d/def/4/1/1 without its length\0'
    blobs = b''.join(struct.pack('<I', size) + b'\7' * size for size in parameters)
    header = struct.pack('<H16sQ', meta, version, len(topology))
    return header + topology + struct.pack('<HHHHI', 0, 0, 6, len(parameters), max(parameters)) + blobs


def test_a_file_made_by_hand(tmp_path: Path) -> None:
    path = tmp_path / 'net.nb'
    path.write_bytes(content())
    found = read_nb(path)
    assert found.opt_version == 'v2.13-rc'
    assert found.file_bytes == path.stat().st_size
    assert found.parameter_count == 2
    assert found.parameter_bytes == 12 + 4 + 10 + 4 + 300
    assert found.topology_bytes == found.file_bytes - found.parameter_bytes - 26
    assert found.kernels == (
        Kernel('feed', 'def', 'host', 'any', 'any'),
        Kernel('conv2d', 'int8_out', 'arm', 'int8', 'NCHW'),
        Kernel('fc', 'image2d', 'opencl', 'fp16', 'image folder'),
        Kernel('sparse_conv2d', 'def', 'arm', 'fp32', 'NCHW'),
        Kernel('calib', 'def', 'arm', 'int8', 'NCHW'),
    )
    assert [kernel.op for kernel in found.int8_kernels] == ['conv2d']  # a conversion between types is no int8 kernel
    assert [kernel.op for kernel in found.fp16_kernels] == ['fc']
    assert [kernel.op for kernel in found.sparse_kernels] == ['sparse_conv2d']
    assert found.targets == ('arm', 'opencl')
    assert found.counts() == {'conv2d arm int8': 1, 'fc opencl fp16': 1, 'sparse_conv2d arm fp32': 1}
    assert str(found.kernels[1]) == 'conv2d/int8_out arm int8 NCHW'


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path, whole = tmp_path / 'net.nb', content()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_nb(path)
    path.write_bytes(whole + b'\0')
    with pytest.raises(CheckpointError, match='should end at byte'):
        read_nb(path)


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (content(meta=1), r'no \.nb file of format 2'),
        (b'PK\3\4' + bytes(100), r'no \.nb file'),
        (content(version=b'\x80\x81 !'), 'its version reads'),
        (struct.pack('<H16sQ', 2, b'v2', 2**60) + bytes(100), 'the file has'),
        (struct.pack('<H16sQ', 2, b'v2', 40) + bytes(100), 'names no kernel'),
    ],
)
def test_other_files(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / 'net.nb'
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        read_nb(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='cannot read'):
        read_nb(tmp_path / 'none.nb')
    with pytest.raises(DataError, match='cannot read'):
        read_nb(tmp_path)
