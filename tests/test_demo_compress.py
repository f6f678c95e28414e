"""demo/compress from its command line, in a small way: killed in the midst, started again, and what it leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import paddleslim_ng as slim
from tests.demo_scripts import DEMO, ROOT, demo, environment, figures

SCRIPT = 'compress/compress_digits'
FILES = ('*.pdiparams', 'float.[jp]*[nl]', 'inference.pdmodel', 'mobile.nb', 'sensitivities*.json')
SMALL = ['--model', 'LeNet', '--scale', '2', '--image_size', '12', '--steps', '80', '--lr', '0.01']
SMALL += ['--config', 'short.yaml', '--repeats', '2', '--engines', 'lite_arm']


def write_short_job(folder: Path) -> None:
    """Write the job of the demo for a small network and few epochs."""
    worked = ROOT / 'configs' / 'compress' / 'digits.yaml'
    strategies = yaml.safe_load(worked.read_text('utf-8'))['strategies']
    strategies['prune'].update(end_epoch=2, pruned_params='conv.*', round_to=1)
    strategies['quantize'].update(start_epoch=2, is_full_quantize=False)
    del strategies['quantize']['int8_model_save_path']
    settings = {'epoch': 3, 'checkpoint_every': 5}
    short = {'version': 1.0, 'include': str(worked), 'strategies': strategies, 'compressor': settings}
    (folder / 'short.yaml').write_text(yaml.safe_dump(short), 'utf-8')


def kill_after(epochs: int, folder: Path) -> None:
    """Start the demo, and kill it when so many epochs are done."""
    command = [sys.executable, str(DEMO / f'{SCRIPT}.py'), *SMALL]
    log = folder / 'compressed' / 'metrics.jsonl'
    with (folder / 'killed.txt').open('wb') as said:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=said, stderr=said)
        try:
            deadline = time.monotonic() + 300
            while not (log.is_file() and len(log.read_text('utf-8').splitlines()) >= epochs):
                assert process.poll() is None and time.monotonic() < deadline, (folder / 'killed.txt').read_text()
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def test_killed_and_started_again(tmp_path: Path, ir: str) -> None:
    write_short_job(tmp_path)
    kill_after(1, tmp_path)
    folder = tmp_path / 'compressed'
    assert not (folder / 'inference.pdmodel').exists()
    output = demo(SCRIPT, *SMALL, folder=tmp_path)
    assert f'{"PIR" if ir == "pir" else "legacy"} programs' in output
    assert 'going on from' in output
    rows = figures(folder)
    assert list(rows) == ['original', 'compressed', 'int8']
    assert abs(rows['compressed']['flops'] / rows['original']['flops'] - 0.5) < 0.02
    assert rows['int8']['file_bytes'] < 0.5 * rows['compressed']['file_bytes']
    before = rows['original']['executor']
    assert before > 0.85
    assert min(rows[name]['executor'] for name in ('compressed', 'int8')) > before - 0.1
    epochs = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text('utf-8').splitlines()]
    assert [epoch['epoch'] for epoch in epochs] == [0, 1, 2]
    assert len(slim.deploy.read_nb(folder / 'mobile.nb').int8_kernels) == 5
    page = (folder / 'report.html').read_text('utf-8')
    assert 'Changes to the network' in page and 'structure verified, not executed' in page


@pytest.mark.full
def test_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Files of a job that was killed twice are those of one that was not; another job is refused its folder."""
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    for folder in (whole, killed):
        folder.mkdir()
        write_short_job(folder)
    demo(SCRIPT, *SMALL, '--engines', 'onednn', 'int8', 'lite_x86', folder=whole)
    for epochs in (1, 2):
        kill_after(epochs, killed)
    demo(SCRIPT, *SMALL, folder=killed)
    rows = figures(whole / 'compressed')
    assert abs(rows['int8']['inference'] - rows['int8']['executor']) < 0.03
    assert rows['compressed']['lite_x86'] == rows['compressed']['inference'] == rows['compressed']['executor']
    names = [path.name for pattern in FILES for path in (whole / 'compressed').glob(pattern)]
    assert len(names) == 8
    for name in names:
        assert (killed / 'compressed' / name).read_bytes() == (whole / 'compressed' / name).read_bytes(), name
    message = demo(SCRIPT, *SMALL, '--seed', '1', folder=killed, code=1)
    assert message.splitlines()[-1].startswith('error: compressed holds another job: seed is 0 there and 1 here')
