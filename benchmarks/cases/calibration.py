"""Calibration of a quantized model: all observers in one pass, against the plain forward of the same images."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import OURS, PADDLESLIM, Case, Metric, Outcome, Results, Target, cpu_seconds, median_of

IMAGES = 32
BATCH = 8
# Enough for the heap to settle, and more than that.
SETTLED, LONG = 64, 160
REPEATS = 3
THEIR_ALGORITHMS = ('avg', 'hist')


def build(quick: bool) -> tuple[Any, Any, Any]:
    """Build a MobileNet for inference in a scope of its own; return program, output and scope."""
    from cases import networks
    from paddleslim_ng.models import MobileNet

    paddle = networks.paddle
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        output = MobileNet(0.25 if quick else 1.0).net(paddle.static.data('image', [None, 3, 224, 224]), 1000)
    paddle.static.Executor(paddle.CPUPlace()).run(startup, scope=scope)
    networks.fill(main, scope)
    return networks.GraphWrapper(main).clone(for_test=True).program, output, scope


def images(count: int) -> Iterator[dict[str, Any]]:
    """Make up batches one at a time, so that they are not what fills the memory."""
    import numpy as np

    random = np.random.default_rng(0)
    for _ in range(count // BATCH):
        yield {'image': random.standard_normal((BATCH, 3, 224, 224), dtype=np.float32)}


def forward(program: Any, output: Any, scope: Any, count: int) -> None:
    from paddleslim_ng.core import Executor

    executor = Executor()
    for feed in images(count):
        executor.run(program, feed=feed, fetch_list=[output], scope=scope)


def calibrated(program: Any, scope: Any, count: int) -> int:
    """Calibrate, and ask every observer for every threshold; return how many tensors there were."""
    from paddleslim_ng.quant import OBSERVERS, calibrate, find_targets, threshold

    seen = calibrate(program, images(count), find_targets(program).activations, scope)
    for algo in OBSERVERS:
        for name in seen:
            threshold(seen[name], algo)
    return len(seen)


def measure(side: str, quick: bool) -> Outcome:
    outcome = Outcome()
    program, output, scope = build(quick)
    forward(program, output, scope, BATCH)
    for _ in range(1 if quick else REPEATS):
        plain, _ = cpu_seconds(lambda: forward(program, output, scope, IMAGES))
        outcome.add('forward', plain)
        if side == PADDLESLIM:
            for algo in THEIR_ALGORITHMS:
                theirs, _ = cpu_seconds(lambda algo=algo: _theirs(program, output, scope, algo))
                outcome.add(algo, theirs)
                outcome.add(f'{algo}_ratio', theirs / plain)
        else:
            ours, outcome.facts['tensors'] = cpu_seconds(lambda: calibrated(program, scope, IMAGES))
            outcome.add('calibrate', ours)
            outcome.add('ratio', ours / plain)
    _measure_memory(side, quick, outcome)
    return outcome


def _theirs(program: Any, output: Any, scope: Any, algo: str) -> None:
    """Run PaddleSlim's post-training quantization, which reads and writes models."""
    with tempfile.TemporaryDirectory() as folder:
        quantize_theirs(program, output, scope, algo, folder)


def quantize_theirs(program: Any, output: Any, scope: Any, algo: str, folder: str) -> None:
    """Save the network as ``float/model`` in a folder, and let PaddleSlim write ``int8/model``."""
    import paddle

    class Images(paddle.io.IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            for feed in images(IMAGES):
                for image in feed['image']:
                    yield (image,)

    executor, block = paddle.static.Executor(paddle.CPUPlace()), program.global_block()
    image = block.var('image')
    loader = paddle.io.DataLoader(
        Images(), feed_list=[image], batch_size=BATCH, places=[paddle.CPUPlace()], return_list=False
    )
    with paddle.static.scope_guard(scope):
        paddle.static.save_inference_model(
            f'{folder}/float/model', [image], [block.var(output.name)], executor, program=program
        )
    with paddle.static.scope_guard(paddle.static.Scope()):
        _quantize(executor, folder, loader, algo)


def _quantize(executor: Any, folder: str, loader: Any, algo: str) -> None:
    from paddleslim.quant import quant_post_static

    quant_post_static(
        executor,
        f'{folder}/float',
        f'{folder}/int8',
        data_loader=loader,
        model_filename='model.pdmodel',
        params_filename='model.pdiparams',
        batch_size=BATCH,
        batch_nums=IMAGES // BATCH,
        algo=algo,
    )


def _measure_memory(side: str, quick: bool, outcome: Outcome) -> None:
    """Take the peaks of processes that do one thing each."""
    works = ['forward', *(THEIR_ALGORITHMS if side == PADDLESLIM else ('calibrate', 'settled', 'long'))]
    peaks = {work: _peak(work, quick) for work in works}
    for work, peak in peaks.items():
        outcome.add(f'{work}_peak', peak)
    if side == PADDLESLIM:
        return
    outcome.add('peak_ratio', peaks['calibrate'] / peaks['forward'])
    outcome.add('peak_growth', peaks['long'] / peaks['settled'])


def _peak(work: str, quick: bool) -> float:
    here = Path(__file__).resolve().parents[1]
    code = f'from cases import calibration; calibration.show_peak({work!r}, {quick})'
    path = os.pathsep.join([str(here), *filter(None, [os.environ.get('PYTHONPATH')])])
    done = subprocess.run(
        [sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': path}, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def show_peak(work: str, quick: bool) -> None:
    """Do one thing and print the megabytes that were in memory at most; what a parent had does not count."""
    import paddle

    paddle.enable_static()
    program, output, scope = build(quick)
    works: dict[str, Callable[[], Any]] = {
        'forward': lambda: forward(program, output, scope, IMAGES),
        'calibrate': lambda: calibrated(program, scope, IMAGES),
        'settled': lambda: calibrated(program, scope, SETTLED),
        'long': lambda: calibrated(program, scope, LONG),
        **{algo: lambda algo=algo: _theirs(program, output, scope, algo) for algo in THEIR_ALGORITHMS},
    }
    works[work]()
    status = Path('/proc/self/status').read_text(encoding='utf-8')
    print(int(next(line for line in status.splitlines() if line.startswith('VmHWM')).split()[1]) / 1024)


def notes(results: Results) -> list[str]:
    counts = {side: outcome.facts['tensors'] for side, outcome in results.items() if 'tensors' in outcome.facts}
    found = [f'Tensors observed: {counts}.']
    theirs = results.get(PADDLESLIM)
    if theirs is not None:
        ratios = {algo: theirs.median(f'{algo}_ratio') for algo in THEIR_ALGORITHMS}
        shown = ', '.join(f'{algo} {ratio:.1f}' for algo, ratio in ratios.items() if ratio is not None)
        found.append(
            f"PaddleSlim's `quant_post_static` takes one observer for each run, {shown} times its plain forward; this "
            'includes loading and saving the model. Its KL takes minutes and was left out.'
        )
    return found


CASE = Case(
    key='calibration',
    title='Calibration',
    text=f'Statistics of the inputs of all convolutions and linear layers of a MobileNet for {IMAGES} images of '
    f'3x224x224, in batches of {BATCH}, and the thresholds of all eight observers from them, KL included; against the '
    'plain forward of the same images in the same process. Peaks of memory are those of separate processes; the plain '
    'forward runs as Paddle runs it.',
    measure=measure,
    metrics=(
        Metric('forward', 'plain forward'),
        Metric('calibrate', 'calibration, all observers', compare=False),
        Metric('ratio', 'calibration / plain forward', '', compare=False),
        *(Metric(algo, f'one observer, {algo}', compare=False) for algo in THEIR_ALGORITHMS),
        Metric('forward_peak', 'peak memory, plain forward', 'MB', compare=False),
        Metric('calibrate_peak', 'peak memory, calibration', 'MB', compare=False),
        Metric('peak_ratio', 'peak memory, calibration / plain forward', '', compare=False),
        Metric('peak_growth', f'peak memory, {LONG} images / {SETTLED} images', '', compare=False),
        *(Metric(f'{algo}_peak', f'peak memory, {algo}', 'MB', compare=False) for algo in THEIR_ALGORITHMS),
    ),
    targets=(
        Target('calibration, all observers', OURS, median_of('ratio'), 2.5, 'times plain forward'),
        Target('peak memory', OURS, median_of('peak_ratio'), 1.15, 'times plain forward'),
        Target(f'peak memory, {LONG} images', OURS, median_of('peak_growth'), 1.05, f'times that of {SETTLED}'),
    ),
    rounds=2,
    notes=notes,
)
