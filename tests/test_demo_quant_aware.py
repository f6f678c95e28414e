"""demo/quant_aware from its command line, in a small way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import paddleslim_ng as slim
from tests.demo_scripts import demo, figures

SMALL = ['--model', 'LeNet', '--scale', '1', '--image_size', '12', '--images', '64', '--steps', '80']
SMALL += ['--qat_steps', '20', '--repeats', '2', '--engines', 'onednn', 'int8']


SCRIPT = 'quant_aware/quant_aware'


def test_sparse_distilled_and_quantized(tmp_path: Path, ir: str) -> None:
    flags = ['--way', 'w8a8', 'lsq2', '--sparse', '0.5', '--distill', '--quant_delay', '5']
    output = demo(SCRIPT, *SMALL, *flags, folder=tmp_path)
    assert f'{"PIR" if ir == "pir" else "legacy"} programs' in output
    assert 'the program that trains is not the one with the masks' not in output
    folder = tmp_path / 'aware'
    rows = figures(folder)
    assert list(rows) == ['float', 'w8a8', 'lsq2']
    before = rows['float']['trained']
    assert before > 0.7
    assert rows['w8a8']['trained'] > before - 0.05
    assert rows['lsq2']['trained'] > rows['lsq2']['post_training'] + 0.1
    assert rows['w8a8']['int8_kernels'] is not None and rows['w8a8']['int8_kernels'] > before - 0.1
    assert all(0.5 <= rows[way]['zeros'] < 0.9 for way in ('w8a8', 'lsq2'))
    # What was simulated is what the program with integers, and the files, compute.
    for way in ('w8a8', 'lsq2'):
        (simulated, converted) = re.findall(rf'{way}: accuracy (\S+) with integers simulated, (\S+) with', output)[0]
        assert simulated == converted == f'{rows[way]["trained"]:.4f}'
    assert rows['w8a8']['file_bytes'] < 0.5 * rows['float']['file_bytes']
    for name in ('w8a8', 'lsq2'):
        assert (folder / f'{name}-fake_quantize.pdmodel').is_file()
    assert len(slim.deploy.read_nb(folder / 'int8-arm.nb').int8_kernels) == 5
    assert '5 of 5 convolutions and products are int8 kernels; structure verified, not executed' in output
    assert re.search(r'int8 on Paddle Inference int8: [345] of 5 convolutions and products are int8 kernels', output)


@pytest.mark.full
def test_other_ways(tmp_path: Path) -> None:
    demo(SCRIPT, *SMALL, '--way', 'w4a8', 'w4a4', 'pact', folder=tmp_path)
    rows = figures(tmp_path / 'aware')
    assert list(rows) == ['float', 'w4a8', 'w4a4', 'pact']
    assert all(row['trained'] > rows['float']['trained'] - 0.15 for row in rows.values())


def test_what_cannot_be(tmp_path: Path) -> None:
    message = demo(SCRIPT, *SMALL, '--steps', '1', '--way', 'w8a8', '--sparse', '1.5', folder=tmp_path, code=1)
    assert message.splitlines()[-1].startswith('error: ')
    assert 'ratio' in message.splitlines()[-1]
