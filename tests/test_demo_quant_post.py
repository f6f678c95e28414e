"""demo/quant_post and demo/quant_embedding from their command lines, in a small way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import paddleslim_ng as slim
from tests.demo_scripts import demo, figures

SMALL = ['--model', 'LeNet', '--scale', '1', '--image_size', '12', '--images', '64', '--repeats', '2']
SMALL += ['--engines', 'onednn', 'int8', 'lite_arm']


def test_observers_side_by_side(tmp_path: Path, ir: str) -> None:
    output = demo('quant_post/quant_post', *SMALL, '--steps', '80', '--algo', 'mse', folder=tmp_path)
    assert f'{"PIR" if ir == "pir" else "legacy"} programs' in output
    folder = tmp_path / 'quantized'
    rows = figures(folder)
    assert list(rows) == ['float', 'mse']
    assert rows['float']['test'] > 0.6
    assert abs(rows['mse']['test'] - rows['float']['test']) < 0.03
    assert rows['mse']['int8_kernels'] is not None and rows['mse']['int8_kernels'] > 0.5
    assert rows['mse']['file_bytes'] < 0.5 * rows['float']['file_bytes']
    assert len(slim.deploy.read_nb(folder / 'int8-arm.nb').int8_kernels) == 5
    assert '5 of 5 convolutions and products are int8 kernels; structure verified, not executed' in output
    # Paddle Inference fuses products behind each other into one kernel of its own, in float.
    assert re.search(r'int8 on Paddle Inference int8: [345] of 5 convolutions and products are int8 kernels', output)
    assert 'of their scale, simulated in float' in output


@pytest.mark.full
def test_a_saved_model_with_fewer_bits(tmp_path: Path) -> None:
    demo('quant_post/quant_post', *SMALL, '--steps', '80', '--algo', 'abs_max', folder=tmp_path)
    again = ['--model_path', 'quantized/float', '--algo', 'KL', '--weight_bits', '4', '--output', 'again']
    demo('quant_post/quant_post', *SMALL, *again, folder=tmp_path)
    assert list(figures(tmp_path / 'again')) == ['float', 'KL']
    message = demo('quant_post/quant_post', *SMALL, *again, '--activation_bits', '1', folder=tmp_path, code=1)
    assert message.splitlines()[-1].startswith('error: bits must be a whole number from 2 to 16')


def test_tables_of_embeddings(tmp_path: Path, ir: str) -> None:
    flags = ['--steps', '60', '--bits', '8', '--quantize_type', 'abs_max', 'row_wise']
    output = demo('quant_embedding/quant_embedding', *flags, folder=tmp_path)
    assert f'{"PIR" if ir == "pir" else "legacy"} programs' in output
    rows = figures(tmp_path / 'embedded')
    assert list(rows) == ['float', 'abs_max-8', 'row_wise-8']
    assert rows['float']['test'] > 0.6
    for name in ('abs_max-8', 'row_wise-8'):
        assert abs(rows[name]['test'] - rows['float']['test']) < 0.02
        assert rows[name]['file_bytes'] < 0.35 * rows['float']['file_bytes']
    message = demo('quant_embedding/quant_embedding', *flags, '--steps', '1', '--bits', '9', folder=tmp_path, code=1)
    assert message.splitlines()[-1] == 'error: quantize_bits must be a whole number from 2 to 8, not 9'
