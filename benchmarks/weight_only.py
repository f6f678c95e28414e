"""Weights as integers without data, and the search for options, on digits: WEIGHT_ONLY.md next to this file.

    FLAGS_enable_pir_api=1 OMP_NUM_THREADS=1 python benchmarks/weight_only.py [--seeds 3] [--quick]

The network, its training and the split are those of ``quant_accuracy.py``. Sizes are those of files; times are process
times of products of 1024 x 1024 with a batch of one, variants taking turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle.nn import functional
from quant_accuracy import CALIBRATION, EPOCHS, IMAGES, Result, accuracy, simulated, trained

import paddleslim_ng as slim
from paddleslim_ng.quant import quant_post_hpo, quantize_model, quantize_weights
from paddleslim_ng.runtime import InferenceModel, load_inference_model, save_inference_model
from paddleslim_ng.runtime.predictor import cpu_predictor

HERE = Path(__file__).resolve().parent
SIDE, LAYERS, RUNS = 1024, 3, 15
TRIALS = 20


class Way(NamedTuple):
    """Bits, and what shares a scale."""

    bits: int
    scales: str
    options: dict[str, Any]


WAYS = tuple(
    Way(bits, scales, options)
    for bits in (16, 8, 4, 3, 2)
    for scales, options in (
        ('one', {'weight_quantize_type': 'abs_max'}),
        ('by channel', {}),
        ('32 inputs', {'group_size': 32}),
        ('8 inputs', {'group_size': 8}),
    )
    if bits < 8 or scales in ('one', 'by channel')
)


class Found(NamedTuple):
    """Accuracy, bits for each weight and size of the files."""

    accuracy: float
    bits: float
    file_bytes: int


def digits() -> tuple[Any, Any, tuple[Any, Any]]:
    """Return images and labels to train with, and those to test on."""
    data = slim.data.digits(size=28, sizes=(1297, 0, 500))
    labels = np.asarray(data.train.labels).reshape(-1, 1)
    return data.train.images, labels, (data.test.images, np.asarray(data.test.labels))


def weights_of(model: InferenceModel, test: tuple[Any, Any], folder: Path) -> dict[str, Found]:
    """Quantize the weights in every way, and test what was read back from the files."""
    size = save_inference_model(model.program, folder / 'float', model.feeds, model.fetches, model.scope).file_bytes
    found = {'32 | float': Found(accuracy(model, *test), 32.0, size)}
    for way in WAYS:
        prefix, feed = folder / f'{way.bits}{way.scales}', {'image': test[0][:4]}
        made = quantize_weights(model, prefix, weight_bits=way.bits, feed=feed, **way.options)
        assert made.exported is not None
        loaded = load_inference_model(prefix, paddle.static.Scope())
        value = accuracy(loaded, *test)
        found[f'{way.bits} | {way.scales}'] = Found(value, made.bits_per_weight, made.exported.file_bytes)
    return found


def searches(model: InferenceModel, images: Any, test: tuple[Any, Any], folder: Path, trials: int) -> dict[str, Result]:
    """Quantize activations and weights to four bits: with each observer as it is, and by the search."""
    save_inference_model(model.program, folder / 'search', model.feeds, model.fetches, model.scope)
    calibration = images[:CALIBRATION]
    feeds = [{'image': calibration[start : start + IMAGES]} for start in range(0, len(calibration), IMAGES)]
    bits: dict[str, Any] = {'weight_bits': 4, 'activation_bits': 4}
    found = {}
    for algo in ('KL', 'hist', 'avg', 'mse'):
        start = time.process_time()
        done = quantize_model(model, feeds, algo=algo, fold=False, bias_correction=True, **bits)
        seconds = time.process_time() - start
        found[f'{algo}, biases corrected, {CALIBRATION} images'] = Result(accuracy(simulated(done), *test), seconds)
    start = time.process_time()
    best = quant_post_hpo(
        slim.Executor(),
        None,
        folder / 'search',
        folder / 'searched',
        train_sample_generator=lambda: ([image] for image in calibration),
        eval_sample_generator=lambda: ([image] for image in images[CALIBRATION : 2 * CALIBRATION]),
        quantizable_op_type=['conv2d', 'depthwise_conv2d', 'mul'],
        algo=['KL', 'hist', 'avg', 'mse'],
        batch_size=16,
        batch_num=(4, 32),
        runcount_limit=trials,
        **bits,
    )
    seconds = time.process_time() - start
    print(best, flush=True)
    value = accuracy(load_inference_model(best.exported.prefix, paddle.static.Scope()), *test)
    found[f'`quant_post_hpo`, {trials} trials, the file'] = Result(value, seconds)
    return found


def products() -> InferenceModel:
    """Return a network of large products."""
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    main.random_seed = startup.random_seed = 1
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = h = paddle.static.data('x', [None, SIDE], 'float32')
        for _ in range(LAYERS):
            h = functional.relu(paddle.nn.Linear(SIDE, SIDE)(h))
    slim.Executor().run(startup, scope=scope)
    return InferenceModel(main, [slim.GraphWrapper.name_of(x)], [h], scope)


def speeds(folder: Path) -> list[str]:
    """Return rows of the table of sizes and times."""
    model = products()
    feed = {'x': np.random.default_rng(0).standard_normal((1, SIDE)).astype('float32')}
    save_inference_model(model.program, folder / 'p32', ['x'], model.fetches, model.scope)
    for bits in (8, 4):
        quantize_weights(model, folder / f'p{bits}', weight_bits=bits)
    runs: dict[str, list[Callable[[], Any]]] = {}
    for name in ('p32', 'p8', 'p4'):
        loaded = load_inference_model(folder / name, paddle.static.Scope())
        runs[name] = [on_executor(loaded, feed), on_predictor(folder / name, feed)]
    times: dict[str, list[list[float]]] = {name: [[], []] for name in runs}
    for _ in range(RUNS):
        for name, (one, two) in runs.items():
            for place, run in enumerate((one, two)):
                start = time.process_time()
                run()
                times[name][place].append(1e3 * (time.process_time() - start))
    rows = []
    for name, (one, two) in times.items():
        size = sum(path.stat().st_size for path in folder.glob(f'{name}.*') if 'quantization' not in path.name)
        rows.append(f'| {name[1:]} | {size:,} | {statistics.median(one):.2f} | {statistics.median(two):.2f} |')
    return rows


def on_executor(model: InferenceModel, feed: dict[str, Any]) -> Callable[[], Any]:
    """Return a run by Paddle's executor."""
    executor = slim.Executor()
    return lambda: executor.run(model.program, feed, model.fetches, scope=model.scope)


def on_predictor(prefix: Path, feed: dict[str, Any]) -> Callable[[], Any]:
    """Return a run by Paddle Inference."""
    program = next(path for path in (prefix.with_suffix('.json'), prefix.with_suffix('.pdmodel')) if path.exists())
    predictor = cpu_predictor(program, prefix.with_suffix('.pdiparams'))

    def run() -> Any:
        for name, array in feed.items():
            predictor.get_input_handle(name).copy_from_cpu(array)
        predictor.run()
        return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()

    return run


def page(weights: dict[str, list[Found]], searched: dict[str, list[Result]], rows: list[str], build: str) -> str:
    """Return the page."""
    seeds = len(next(iter(weights.values())))
    lines = [
        '# Weights as integers, and the search for options',
        '',
        f'Digits: network, training ({EPOCHS} epochs) and split of `quant_accuracy.py`; 500 test images, one is .002.',
        f'{seeds} seeds, {build}, one thread. Script: `weight_only.py`. Accuracies are those of the files.',
        '',
        '## Weights alone, activations in float',
        '',
        '| bits | a scale for | mean | lowest | bits for each weight, scales included | bytes of the files |',
        '|---|---|---|---|---|---|',
    ]
    for name, found in weights.items():
        values = [item.accuracy for item in found]
        shown = f'{statistics.mean(values):.3f} | {min(values):.3f} | {found[0].bits:.2f} | {found[0].file_bytes:,}'
        lines.append(f'| {name} | {shown} |')
    lines += ['', '## Four bits for weights and activations', '', '| options | mean | lowest | process seconds |']
    lines.append('|---|---|---|---|')
    for name, results in searched.items():
        values = [item.accuracy for item in results]
        seconds = statistics.mean(item.seconds for item in results)
        lines.append(f'| {name} | {statistics.mean(values):.3f} | {min(values):.3f} | {seconds:.1f} |')
    lines += [
        '',
        f'## Size and time: {LAYERS} products of {SIDE} x {SIDE}, batch of one',
        '',
        '| bits | bytes of the files | executor, ms | Paddle Inference, ms |',
        '|---|---|---|---|',
    ]
    return '\n'.join([*lines, *rows]) + '\n'


def main() -> None:
    """Run all seeds and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--quick', action='store_true', help='one epoch and few trials; nothing is written')
    arguments = parser.parse_args()
    paddle.enable_static()
    images, labels, test = digits()
    weights: dict[str, list[Found]] = {}
    searched: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(arguments.seeds):
            folder = Path(name) / str(seed)
            model = trained(seed, images, labels, 1 if arguments.quick else EPOCHS)
            for key, one in weights_of(model, test, folder).items():
                weights.setdefault(key, []).append(one)
                print(f'seed {seed}: {key}: {one}', flush=True)
            for key, two in searches(model, images, test, folder, 3 if arguments.quick else TRIALS).items():
                searched.setdefault(key, []).append(two)
                print(f'seed {seed}: {key}: {two}', flush=True)
        rows = speeds(Path(name))
    ir = 'PIR' if slim.GraphWrapper(paddle.static.Program()).ir == 'pir' else 'legacy IR'
    text = page(weights, searched, rows, f'Paddle {paddle.__version__} {ir}')
    print(text)
    if not arguments.quick:
        (HERE / 'WEIGHT_ONLY.md').write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
