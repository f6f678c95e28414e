"""demo/quant_post and demo/quant_embedding from their command lines, in a small way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import paddleslim_ng as slim

ROOT = Path(__file__).resolve().parents[1]
SMALL = ['--model', 'LeNet', '--scale', '1', '--image_size', '12', '--images', '64', '--repeats', '2']
SMALL += ['--engines', 'onednn', 'int8', 'lite_arm']


def script(name: str, *arguments: str, folder: Path, code: int = 0) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    done = subprocess.run(
        [sys.executable, str(ROOT / 'demo' / f'{name}.py'), *arguments],
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def test_observers_side_by_side(tmp_path: Path, ir: str) -> None:
    output = script('quant_post/quant_post', *SMALL, '--steps', '80', '--algo', 'mse', folder=tmp_path)
    assert f'{"PIR" if ir == "pir" else "legacy"} programs' in output
    folder = tmp_path / 'quantized'
    figures = json.loads((folder / 'figures.json').read_text('utf-8'))
    assert list(figures) == ['float', 'mse']
    assert figures['float']['test'] > 0.6
    assert abs(figures['mse']['test'] - figures['float']['test']) < 0.03
    assert figures['mse']['int8_kernels'] is not None and figures['mse']['int8_kernels'] > 0.5
    assert figures['mse']['file_bytes'] < 0.5 * figures['float']['file_bytes']
    assert len(slim.deploy.read_nb(folder / 'int8-arm.nb').int8_kernels) == 5
    assert '5 of 5 convolutions and products are int8 kernels; structure verified, not executed' in output
    # Paddle Inference fuses products behind each other into one kernel of its own, in float.
    assert re.search(r'int8 on Paddle Inference int8: [345] of 5 convolutions and products are int8 kernels', output)
    assert 'of their scale, simulated in float' in output


@pytest.mark.full
def test_a_saved_model_with_fewer_bits(tmp_path: Path) -> None:
    script('quant_post/quant_post', *SMALL, '--steps', '80', '--algo', 'abs_max', folder=tmp_path)
    again = ['--model_path', 'quantized/float', '--algo', 'KL', '--weight_bits', '4', '--output', 'again']
    script('quant_post/quant_post', *SMALL, *again, folder=tmp_path)
    assert list(json.loads((tmp_path / 'again' / 'figures.json').read_text('utf-8'))) == ['float', 'KL']
    message = script('quant_post/quant_post', *SMALL, *again, '--activation_bits', '1', folder=tmp_path, code=1)
    assert message.splitlines()[-1].startswith('error: bits must be a whole number from 2 to 16')


def test_tables_of_embeddings(tmp_path: Path, ir: str) -> None:
    flags = ['--steps', '60', '--bits', '8', '--quantize_type', 'abs_max', 'row_wise']
    output = script('quant_embedding/quant_embedding', *flags, folder=tmp_path)
    assert f'{"PIR" if ir == "pir" else "legacy"} programs' in output
    figures = json.loads((tmp_path / 'embedded' / 'figures.json').read_text('utf-8'))
    assert list(figures) == ['float', 'abs_max-8', 'row_wise-8']
    assert figures['float']['test'] > 0.6
    for name in ('abs_max-8', 'row_wise-8'):
        assert abs(figures[name]['test'] - figures['float']['test']) < 0.02
        assert figures[name]['file_bytes'] < 0.35 * figures['float']['file_bytes']
    message = script('quant_embedding/quant_embedding', *flags, '--steps', '1', '--bits', '9', folder=tmp_path, code=1)
    assert message.splitlines()[-1] == 'error: quantize_bits must be a whole number from 2 to 8, not 9'
