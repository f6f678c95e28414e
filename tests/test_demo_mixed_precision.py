"""demo/mixed_precision from its command line, in a small way."""

from __future__ import annotations

from pathlib import Path

import paddleslim_ng as slim
from tests.demo_scripts import demo, figures

SMALL = ['--model', 'LeNet', '--scale', '1', '--image_size', '12', '--images', '64', '--steps', '80', '--repeats', '2']
SMALL += ['--tune_steps', '20', '--iterations', '10', '--draws', '3', '--engines', 'onednn', 'int8']


SCRIPT = 'mixed_precision/mixed_precision'


def test_bits_under_two_budgets(tmp_path: Path, ir: str) -> None:
    output = demo(SCRIPT, *SMALL, folder=tmp_path)
    assert f'{"PIR" if ir == "pir" else "legacy"} programs' in output
    folder = tmp_path / 'mixed'
    rows = figures(folder)
    assert list(rows) == ['float', 'random', 'all 3', 'average', 'refined', 'bytes']
    before = rows['float']['rounded']
    assert before > 0.7
    assert all(rows[name]['average_bits'] <= 3 for name in rows if name not in ('float', 'bytes'))
    assert rows['bytes']['stored_bytes'] <= 0.1 * rows['float']['stored_bytes']
    for name in ('average', 'refined'):
        assert rows[name]['divergence'] < 0.6 * rows['all 3']['divergence']
        assert rows[name]['divergence'] < rows['random']['divergence']
    for name in ('average', 'refined', 'bytes'):
        assert all(rows[name][way] > before - 0.1 for way in ('rounded', 'reconstructed', 'fine_tuned'))
    assert len(slim.deploy.read_nb(folder / 'int8-arm.nb').int8_kernels) == 5
    assert '5 of 5 convolutions and products are int8 kernels; structure verified, not executed' in output


def test_a_budget_that_no_choice_keeps(tmp_path: Path) -> None:
    message = demo(SCRIPT, *SMALL, '--steps', '1', '--bits', '3', '4', '--average_bits', '2', folder=tmp_path, code=1)
    assert message.splitlines()[-1].startswith('error: no choice of bits is within 2 bits on average')
