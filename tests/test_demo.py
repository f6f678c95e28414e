"""The demo runs from its command line on whichever IR is at hand, in a small way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import paddleslim_ng as slim

ROOT = Path(__file__).resolve().parents[1]


def test_demo_prunes_and_writes_its_report(tmp_path: Path, ir: str) -> None:
    command = [sys.executable, str(ROOT / 'demo' / 'prune_by_sensitivity.py'), '--output', str(tmp_path)]
    command += ['--scale', '0.125', '--epochs', '2', '--tune-epochs', '1', '--params', '2', '--loss', '0.95']
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert f'{ir} programs' in done.stdout
    assert 'pruned equals masked' in done.stdout
    page = (tmp_path / 'report.html').read_text('utf-8')
    assert 'conv2_1_sep_weights' in page
    assert '<svg' in page
    assert 'Files of Paddle Lite' in page and 'structure verified, not executed' in page
    assert done.stdout.count('3 fresh predictors within') == 2
    assert 'http://' not in page.replace('http://www.w3.org/2000/svg', '')
    suffix = '.json' if ir == 'pir' else '.pdmodel'
    for name in ('dense', 'pruned'):
        assert (tmp_path / f'{name}{suffix}').is_file()
        assert (tmp_path / f'{name}.pdiparams').stat().st_size > 0
        for target in ('arm', 'x86'):
            assert slim.deploy.read_nb(tmp_path / f'{name}-{target}.nb').on_target(target)
    measured = [json.loads((tmp_path / f'sensitivities_{i}.json').read_text('utf-8')) for i in (0, 1)]
    assert all('conv2_2_sep_weights' in entry['sensitivities'] for entry in measured)
