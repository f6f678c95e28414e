"""Accuracy of what the Compressor makes of a network for digits, and COMPRESS_ACCURACY.md next to this file.

    FLAGS_enable_pir_api=1 OMP_NUM_THREADS=1 python benchmarks/compress_accuracy.py [--seeds 3] [--quick]

The job of configs/compress/digits.yaml, and others with some of its strategies; the original network of a seed is the
same for all of them. The validation part decides which channels leave; the test part is looked at for the table alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from accuracy_pages import SPREAD, arguments, build_of_paddle, collected, mean, spread, table, write_page

from paddleslim_ng.compress import JobFolder, load_config
from paddleslim_ng.errors import DeployError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'demo' / 'compress'))
import compress_digits as demo
import quantized_digits as digits

JOBS: dict[str, list[str]] = {
    'none: trained on': [],
    'pruned': ['prune'],
    'pruned, distilled': ['prune', 'distill'],
    'pruned, quantized': ['prune', 'quantize'],
    'pruned, distilled, quantized': ['prune', 'distill', 'quantize'],
}


class Row(NamedTuple):
    """Multiply-accumulates, bytes of the smallest model, its accuracies, change in images, and process seconds."""

    macs: int
    file_bytes: int
    executor: float
    inference: float
    change: int
    seconds: float


class Work(NamedTuple):
    """The data, and the flags of the demo."""

    parts: Any
    options: argparse.Namespace
    quick: bool


def configuration(strategies: Sequence[str], quick: bool) -> Any:
    """Return the demo's job with some of its strategies; nothing is written for other runtimes."""
    settings = yaml.safe_load(demo.CONFIG.read_text('utf-8'))
    for name in ('mobile_model_save_path', 'inference_model_save_path'):
        del settings['strategies']['quantize'][name]
    if quick:
        settings['strategies']['quantize']['start_epoch'] = 1
        settings['strategies']['prune']['end_epoch'] = 2
    settings['compressor'].update(strategies=list(strategies), **({'epoch': 2} if quick else {}))
    return load_config(settings)


def compressed(strategies: Sequence[str], original: Row, work: Work) -> Row:
    """Run a job from the original network, and measure the smallest model that it leaves."""
    options = work.options
    net, folder = digits.build(options), options.output / '-'.join(strategies or ['none'])
    demo.train(net, work.parts.train, options)
    folder.mkdir()
    config = JobFolder(folder).config_within(configuration(strategies, work.quick))
    start = time.process_time()
    made = demo.compress(net, work.parts, config, options)
    seconds = time.process_time() - start
    models = demo.saved_models(net, made, options.output)
    return measured(models.get('int8', models['compressed']), work.parts.test, seconds, original)


def measured(saved: demo.Saved, part: Any, seconds: float, original: Row | None = None) -> Row:
    """Measure files in Paddle's executor, and in Paddle Inference with kernels of their precision."""
    row = demo.evaluate(saved, part, ['onednn', 'int8'])
    if row.inference is None:
        raise DeployError('the accuracies are those of Paddle Inference, which cannot run the files here')
    change = 0 if original is None else round(len(part) * (row.inference - original.inference))
    return Row(row.flops, row.file_bytes, row.executor, row.inference, change, seconds)


def one_seed(seed: int, quick: bool) -> Iterator[tuple[str, Row]]:
    """Train the original network, and run all jobs on it."""
    with tempfile.TemporaryDirectory() as folder:
        small = ['--model', 'LeNet', '--scale', '1', '--steps', '60'] if quick else []
        options = demo.parse_arguments(['--seed', str(seed), '-o', folder, *small])
        work = Work(digits.begin(options), options, quick)
        net = digits.build(options)
        start = time.process_time()
        demo.train(net, work.parts.train, options)
        saved = demo.Saved(options.output / 'original', net.evaluation, 'fp32')
        original = measured(saved, work.parts.test, time.process_time() - start)
        yield 'original', original
        for name, strategies in JOBS.items():
            yield name, compressed(strategies, original, work)


def page(results: dict[str, list[Row]], build: str) -> str:
    """Return the page."""
    seeds = len(results['original'])
    text = [
        '# Accuracy of compressed networks',
        '',
        f'Digits, 20x20, 1,097 images to train with, 200 to choose channels by, and 500 to test on. {seeds} seeds, '
        f'{build}, one',
        'thread. A ResNet18 of a quarter of the channels, trained for 150 steps; then the job of '
        '`configs/compress/digits.yaml`, 12 epochs, with',
        'some of its strategies (see `compress_accuracy.py`): half of the multiply-accumulates leave by sensitivity in '
        'two steps, the original',
        'network teaches, and integers are trained with from epoch 9 on. Accuracies are those of the files: in '
        "Paddle's executor, which",
        'simulates integers, and in Paddle Inference, with int8 kernels where there are integers. Change: of the same '
        'seed from the original,',
        'in images of 500, worst and best. Seconds are those of the process for training.',
        '',
    ]
    inference = ['Paddle Inference: mean', *SPREAD[1:], 'change']
    head = ['strategies', 'MACs removed', 'bytes', 'executor: mean', *inference, 'process seconds']
    before = mean(results['original'], 'macs')
    rows = {
        name: [
            f'{1 - mean(found, "macs") / before:.1%}',
            f'{mean(found, "file_bytes"):,.0f}',
            f'{mean(found, "executor"):.3f}',
            *spread([row.inference for row in found]),
            f'{min(row.change for row in found):+d} to {max(row.change for row in found):+d}',
            f'{mean(found, "seconds"):.0f}',
        ]
        for name, found in results.items()
    }
    return '\n'.join([*text, *table(head, rows)]) + '\n'


def main() -> None:
    """Run all seeds and write the page."""
    options = arguments(__doc__, 'a LeNet and two epochs').parse_args()
    text = page(collected(options.seeds, lambda seed: one_seed(seed, options.quick)), build_of_paddle())
    print(text)
    if not options.quick:
        write_page('COMPRESS_ACCURACY.md', text)


if __name__ == '__main__':
    main()
