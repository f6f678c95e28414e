"""demo/mixed_precision from its command line, in a small way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import paddleslim_ng as slim

ROOT = Path(__file__).resolve().parents[1]
SMALL = ['--model', 'LeNet', '--scale', '1', '--image_size', '12', '--images', '64', '--steps', '80', '--repeats', '2']
SMALL += ['--tune_steps', '20', '--iterations', '10', '--draws', '3', '--engines', 'onednn', 'int8']


def script(*arguments: str, folder: Path, code: int = 0) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    done = subprocess.run(
        [sys.executable, str(ROOT / 'demo' / 'mixed_precision' / 'mixed_precision.py'), *arguments],
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def test_bits_under_two_budgets(tmp_path: Path, ir: str) -> None:
    output = script(*SMALL, folder=tmp_path)
    assert f'{"PIR" if ir == "pir" else "legacy"} programs' in output
    folder = tmp_path / 'mixed'
    figures = json.loads((folder / 'figures.json').read_text('utf-8'))
    assert list(figures) == ['float', 'random', 'all 3', 'average', 'refined', 'bytes']
    before = figures['float']['rounded']
    assert before > 0.7
    assert all(figures[name]['average_bits'] <= 3 for name in figures if name not in ('float', 'bytes'))
    assert figures['bytes']['stored_bytes'] <= 0.1 * figures['float']['stored_bytes']
    for name in ('average', 'refined'):
        assert figures[name]['divergence'] < 0.6 * figures['all 3']['divergence']
        assert figures[name]['divergence'] < figures['random']['divergence']
    for name in ('average', 'refined', 'bytes'):
        assert all(figures[name][way] > before - 0.1 for way in ('rounded', 'reconstructed', 'fine_tuned'))
    assert len(slim.deploy.read_nb(folder / 'int8-arm.nb').int8_kernels) == 5
    assert '5 of 5 convolutions and products are int8 kernels; structure verified, not executed' in output


def test_a_budget_that_no_choice_keeps(tmp_path: Path) -> None:
    message = script(*SMALL, '--steps', '1', '--bits', '3', '4', '--average_bits', '2', folder=tmp_path, code=1)
    assert message.splitlines()[-1].startswith('error: no choice of bits is within 2 bits on average')
