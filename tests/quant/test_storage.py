"""Storage: what is reported against what files of packed bits take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array
from paddleslim_ng.errors import GraphError
from paddleslim_ng.quant.non_uniform_quantizer import NonUniformQuantizer
from paddleslim_ng.quant.quantizers import quantize
from paddleslim_ng.quant.storage import storage_report
from paddleslim_ng.quant.uniform_grids import uniform_codes
from paddleslim_ng.quant.uniform_quantizer import UniformQuantizer
from tests.quant import quantized_nets as nets
from tests.quant.low_bit_nets import Training


def packed(codes: Any, bits: int) -> bytes:
    """Return unsigned codes without gaps."""
    planes = (codes.reshape(-1, 1).astype('uint16') >> np.arange(bits)) & 1
    return np.packbits(planes.astype('uint8').reshape(-1)).tobytes()


@pytest.mark.parametrize('bits', [2, 3, 8])
@pytest.mark.parametrize('bucket', [None, 'channel', 'split'])
def test_a_uniform_file(bits: int, bucket: str | None, tmp_path: Path) -> None:
    net = Training(minimize=False)
    done = UniformQuantizer(bits, bucket=bucket, bucket_size=32).apply(net.main, net.scope)
    parts = []
    for layer in done.layers:
        codes, low, step, _ = uniform_codes(load_array(net.scope, layer.weight), bits, layer.buckets)
        parts += [packed(codes, bits), low.tobytes(), step.tobytes()]
    others = [array for name, array in net.parameters().items() if name not in done.values(net.scope)]
    check(done.report, parts, others, tmp_path)
    assert done.report.quantized[1].bits_per_element >= bits


@pytest.mark.parametrize('bits', [2, 4])
@pytest.mark.parametrize('keep_zeros', [False, True])
def test_a_file_with_codebooks(bits: int, keep_zeros: bool, tmp_path: Path) -> None:
    net = Training(minimize=False)
    done = NonUniformQuantizer(bits, bucket='channel', keep_zeros=keep_zeros).apply(net.main, net.scope)
    parts = []
    for layer in done.layers:
        array = done.values(net.scope)[layer.weight]
        points = load_array(net.scope, layer.weight + '.codebook')
        books = np.concatenate([points, np.zeros((len(points), 1), 'float32')], 1) if keep_zeros else points
        rows = layer.buckets.rows(array)
        codes = np.abs(rows[..., None] - books[:, None]).argmin(-1)
        assert np.array_equal(np.take_along_axis(books, codes, 1), rows)
        parts += [packed(codes, bits), points.tobytes()]
    others = [
        array
        for name, array in net.parameters().items()
        if '.codebook' not in name and name + '.codebook' not in net.parameters()
    ]
    check(done.report, parts, others, tmp_path)


@pytest.mark.parametrize('kind', ['abs_max', 'channel_wise_abs_max'])
def test_a_file_of_integers(kind: str, tmp_path: Path) -> None:
    net = nets.conv_net()
    spec = nets.spec_of(net, weight_bits=3, weight_quantize_type=kind)
    report = storage_report(net.program, spec)
    parts = []
    for tensor in spec.of_kind('weight'):
        codes = quantize(load_array(net.scope, tensor.name), tensor) + tensor.limit
        parts += [packed(codes, 3), tensor.scale.tobytes()]
    others = [
        load_array(net.scope, var.name())
        for var in GraphWrapper(net.program).all_parameters()
        if var.name() not in spec.tensors
    ]
    check(report, parts, others, tmp_path)
    other = slim.quant.QuantizationSpec(
        {'w': slim.quant.TensorQuantization('w', 4, np.ones(1, 'float32'), kind='weight')}, {'y': ('w',)}
    )
    with pytest.raises(GraphError, match="'w'"):
        storage_report(net.program, other)


def check(report: Any, parts: list[bytes], others: list[Any], folder: Path) -> None:
    """Write a file; every packed tensor may end within a byte."""
    (folder / 'file').write_bytes(b''.join(parts) + b''.join(array.tobytes() for array in others))
    size = (folder / 'file').stat().st_size
    assert size - len(parts) < report.total_bytes <= size
    plain = sum(4 * item.elements for item in report.tensors)
    assert report.float_bytes == plain and report.ratio == pytest.approx(plain / report.total_bytes)
    packed_bits = 8 * (report.total_bytes - sum(array.nbytes for array in others))
    count = sum(item.elements for item in report.quantized)
    assert report.bits_per_weight == pytest.approx(packed_bits / count)
    assert report.to_dict()['total_bytes'] == report.total_bytes
    assert all(item.name in str(report) for item in report.quantized)
