"""The demo runs from its command line on whichever IR is at hand, in a small way."""

from __future__ import annotations

import json
from pathlib import Path

import paddleslim_ng as slim
from tests.demo_scripts import demo


def test_demo_prunes_and_writes_its_report(tmp_path: Path, ir: str) -> None:
    flags = ['--scale', '0.125', '--epochs', '1', '--tune-epochs', '1', '--params', '2', '--loss', '0.95']
    output = demo('prune_by_sensitivity', '--output', str(tmp_path), *flags, folder=tmp_path)
    assert f'{ir} programs' in output
    assert 'pruned equals masked' in output
    page = (tmp_path / 'report.html').read_text('utf-8')
    assert 'conv2_1_sep_weights' in page
    assert '<svg' in page
    assert 'Files of Paddle Lite' in page and 'structure verified, not executed' in page
    assert output.count('3 fresh predictors within') == 2
    assert 'http://' not in page.replace('http://www.w3.org/2000/svg', '')
    suffix = '.json' if ir == 'pir' else '.pdmodel'
    for name in ('dense', 'pruned'):
        assert (tmp_path / f'{name}{suffix}').is_file()
        assert (tmp_path / f'{name}.pdiparams').stat().st_size > 0
        for target in ('arm', 'x86'):
            assert slim.deploy.read_nb(tmp_path / f'{name}-{target}.nb').on_target(target)
    measured = [json.loads((tmp_path / f'sensitivities_{i}.json').read_text('utf-8')) for i in (0, 1)]
    assert all('conv2_2_sep_weights' in entry['sensitivities'] for entry in measured)
