"""Accuracy of post-training quantization on digits, over several seeds, and QUANT_ACCURACY.md next to this file.

    FLAGS_enable_pir_api=1 OMP_NUM_THREADS=1 python benchmarks/quant_accuracy.py [--seeds 3] [--quick] [--observers]

A network in the manner of MobileNetV1, of some 38,000 parameters, is trained for every seed, its batch norms are
folded, and it is quantized with images of the training part in different ways. All settings stand in this file; the
test part is looked at once, for the table.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle
from accuracy_pages import SPREAD, arguments, build_of_paddle, collected, mean, spread, write_page, write_section
from accuracy_pages import table as markdown_table
from paddle import nn
from paddle.nn import functional

import paddleslim_ng as slim
from paddleslim_ng.quant import Learning, QuantizedModel, quantize_model
from paddleslim_ng.runtime import InferenceModel

Array = npt.NDArray[Any]
PAGE = 'QUANT_ACCURACY.md'
OBSERVERS = '## Observers'
STAGES = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1))  # channels and stride of depthwise separable convolutions
EPOCHS, BATCH, RATE = 15, 64, 0.005
CALIBRATION, IMAGES = 512, 64  # images from the training part, and in a batch
LEARNING = Learning(iterations=300, batch_size=32, lr=0.05)


class Way(NamedTuple):
    """One way to quantize: a row of the table."""

    name: str
    weights: int
    activations: int
    options: dict[str, Any]


def reconstruction(level: str) -> dict[str, Any]:
    """Return the options of a reconstruction with rounded activations."""
    return {'round_type': 'adaround', 'reconstruction': {'level': level, 'learning': LEARNING}}


WAYS = (
    Way('plain', 8, 8, {}),
    Way('reconstructed by region', 8, 8, reconstruction('region-wise')),
    Way('plain, one scale for each weight', 4, 4, {'weight_quantize_type': 'abs_max'}),
    Way('plain', 4, 4, {}),
    Way('biases corrected', 4, 4, {'bias_correction': True}),
    Way('reconstructed by layer', 4, 4, reconstruction('layer-wise')),
    Way('reconstructed by region', 4, 4, reconstruction('region-wise')),
    Way('reconstructed by region, biases corrected', 4, 4, {**reconstruction('region-wise'), 'bias_correction': True}),
)


def network(image: Any) -> Any:
    """Return the logits."""

    def layer(x: Any, channels: int, kernel: int, stride: int, groups: int = 1) -> Any:
        conv = nn.Conv2D(x.shape[1], channels, kernel, stride, kernel // 2, groups=groups, bias_attr=False)
        return functional.relu(nn.BatchNorm2D(channels)(conv(x)))

    maps = layer(image, 16, 3, 2)
    for channels, stride in STAGES:
        maps = layer(maps, maps.shape[1], 3, stride, maps.shape[1])
        maps = layer(maps, channels, 1, 1)
    return nn.Linear(STAGES[-1][0], 10)(paddle.flatten(functional.adaptive_avg_pool2d(maps, 1), 1))


def trained(seed: int, images: Array, labels: Array, epochs: int) -> InferenceModel:
    """Train the network, and return it with its batch norms folded."""
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    main.random_seed = startup.random_seed = seed + 1
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        image = paddle.static.data('image', [None, 1, 28, 28], 'float32')
        label = paddle.static.data('label', [None, 1], 'int64')
        logits = network(image)
        paddle.optimizer.Adam(RATE).minimize(functional.cross_entropy(logits, label))
    executor, rng = slim.Executor(), np.random.default_rng(seed)
    executor.run(startup, scope=scope)
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            executor.run(main, {'image': images[rows], 'label': labels[rows]}, scope=scope)
    return slim.quant.fold_batch_norm(main, ['image'], [logits], scope).model


def accuracy(model: InferenceModel, images: Array, labels: Array) -> float:
    """Return the fraction of images that are recognized."""
    (logits,) = slim.Executor().run(model.program, {'image': images}, model.fetches, scope=model.scope)
    return float((logits.argmax(1) == labels.reshape(-1)).mean())


def simulated(done: QuantizedModel) -> InferenceModel:
    """Return the quantized model as a program in float."""
    program, scope = slim.quant.simulate(done.model.program, done.spec, done.model.scope)
    graph = slim.GraphWrapper(program)
    fetches = [graph.var(slim.GraphWrapper.name_of(item)).raw for item in done.model.fetches]
    return InferenceModel(program, done.model.feeds, fetches, scope)


class Result(NamedTuple):
    """Accuracy and process seconds."""

    accuracy: float
    seconds: float


def one_seed(seed: int, quick: bool) -> Iterator[tuple[str, Result]]:
    """Train, and quantize in every way."""
    data = slim.data.digits(size=28, sizes=(1297, 0, 500))
    images, labels = data.train.images, np.asarray(data.train.labels).reshape(-1, 1)
    test = data.test.images, np.asarray(data.test.labels)
    model = trained(seed, images, labels, 1 if quick else EPOCHS)
    yield 'float', Result(accuracy(model, *test), 0.0)
    calibration = images[: IMAGES if quick else CALIBRATION]
    feeds = [{'image': calibration[start : start + IMAGES]} for start in range(0, len(calibration), IMAGES)]
    for way in WAYS:
        start = time.process_time()
        bits = {'weight_bits': way.weights, 'activation_bits': way.activations}
        done = quantize_model(model, feeds, algo='mse', fold=False, **bits, **way.options)
        seconds = time.process_time() - start
        yield row_of(way), Result(accuracy(simulated(done), *test), seconds)


def row_of(way: Way) -> str:
    """Return the first columns of the row of a way."""
    return f'{way.weights} | {way.activations} | {way.name}'


def table(results: dict[str, list[Result]], build: str) -> str:
    """Return the page."""
    count = len(next(iter(results.values())))
    text = [
        '# Accuracy of post-training quantization',
        '',
        f'Digits, 28x28, 1,297 images to train with and 500 to test on; one image is .002. {count} seeds, {build}, one',
        'thread. A network in the manner of MobileNetV1 (see `quant_accuracy.py`), trained for '
        f'{EPOCHS} epochs, batch norms',
        f'folded; {CALIBRATION} images from the training part to calibrate with, observer `mse`, one scale for each '
        'output',
        f'channel of a weight unless said. Reconstruction: {LEARNING.iterations} steps of {LEARNING.batch_size} '
        'images.',
        'Accuracies are those of the simulation, which exported files are checked against.',
        '',
    ]
    head = ['weight bits', 'activation bits', 'way', *SPREAD, 'process seconds']
    rows = {
        '32 | 32 | float' if name == 'float' else name: [
            *spread([item.accuracy for item in found]),
            f'{mean(found, "seconds"):.1f}',
        ]
        for name, found in results.items()
    }
    return '\n'.join([*text, *markdown_table(head, rows)]) + '\n'


def observed(seed: int, quick: bool) -> Iterator[tuple[str, float]]:
    """Train, and quantize to 8 bits with every observer, from the statistics of one pass."""
    data = slim.data.digits(size=28, sizes=(1297, 0, 500))
    images, labels = data.train.images, np.asarray(data.train.labels).reshape(-1, 1)
    test = data.test.images, np.asarray(data.test.labels)
    model = trained(seed, images, labels, 1 if quick else EPOCHS)
    yield 'float', accuracy(model, *test)
    calibration = images[: IMAGES if quick else CALIBRATION]
    feeds = [{'image': calibration[start : start + IMAGES]} for start in range(0, len(calibration), IMAGES)]
    done = quantize_model(model, feeds, fold=False)
    for algo in slim.quant.OBSERVERS:
        limits = {name: slim.quant.threshold(done.statistics[name], algo) for name in done.statistics}
        spec = slim.quant.spec_from_thresholds(done.model.program, limits, scope=done.model.scope)
        yield algo, accuracy(simulated(dataclasses.replace(done, spec=spec)), *test)


def observer_table(results: dict[str, list[float]], build: str) -> str:
    """Return the section of the observers."""
    text = [
        OBSERVERS,
        '',
        f'8 bits for weights and activations, one pass over the same images for all observers; {build}. Difference: of',
        'the same seed from float, in images of 500.',
        '',
    ]
    rows = {}
    for name, values in results.items():
        changes = [round(500 * (value - before)) for value, before in zip(values, results['float'])]
        rows[name] = [*spread(values), str(max(0, -min(changes))), str(max(0, max(changes)))]
    head = ['observer', *SPREAD, 'largest loss, images', 'largest gain, images']
    return '\n'.join([*text, *markdown_table(head, rows)]) + '\n'


def main() -> None:
    """Run all seeds and write the page, or the section of the observers."""
    parser = arguments(__doc__, 'one epoch and few images')
    parser.add_argument('--observers', action='store_true', help='8 bits with every observer, and nothing else')
    options = parser.parse_args()
    paddle.enable_static()
    run = observed if options.observers else one_seed
    results = collected(options.seeds, lambda seed: run(seed, options.quick))
    text = (observer_table if options.observers else table)(results, build_of_paddle())
    print(text)
    if options.quick:
        return
    if options.observers:
        write_section(PAGE, OBSERVERS, text)
    else:
        write_page(PAGE, text)


if __name__ == '__main__':
    main()
