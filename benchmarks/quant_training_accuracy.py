"""Accuracy of short quantization-aware training on digits, and its section of QUANT_ACCURACY.md next to this file.

    FLAGS_enable_pir_api=1 OMP_NUM_THREADS=1 python benchmarks/quant_training_accuracy.py [--seeds 3] [--quick]

The network of ``quant_accuracy.py`` is trained in float for every seed, with batch norm, and then for 30 steps with
quantized weights and activations. Afterwards batch norm is estimated anew from images of the training part. The test
part is looked at after that, for the table, and once without the estimation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import paddle
from accuracy_pages import arguments, build_of_paddle, collected, mean, spread, write_section
from accuracy_pages import table as markdown_table
from paddle.nn import functional
from quant_accuracy import PAGE, RATE, Array, network

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, lookup, store_array
from paddleslim_ng.quant.aware import quant_aware
from paddleslim_ng.quant.batch_norm_estimation import reestimate_batch_norm

EPOCHS, BATCH = 15, 64
STEPS, TRAINED, PEAK = 30, 128, 0.01  # training quantized: steps, images in each, and the learning rate they start from
ESTIMATED = 10  # batches that batch norm is estimated from
HEADING = '## Training quantized for 30 steps'
LSQ = {'weight_quantize_type': 'channel_wise_lsq', 'activation_quantize_type': 'lsq'}
WAYS: dict[str, dict[str, Any]] = {
    '2 | 8 | largest magnitude': {'weight_bits': 2},
    '2 | 8 | LSQ weights': {'weight_bits': 2, 'weight_quantize_type': 'channel_wise_lsq'},
    '4 | 4 | largest magnitude, moving average': {'weight_bits': 4, 'activation_bits': 4},
    '4 | 4 | LSQ': {'weight_bits': 4, 'activation_bits': 4, **LSQ},
    '4 | 4 | LSQ weights, PACT': {'weight_bits': 4, 'activation_bits': 4, **LSQ, 'activation_quantize_type': 'pact'},
}


class Built(NamedTuple):
    """A network with its loss, before ``minimize``."""

    program: Any
    startup: Any
    loss: Any
    logits: Any


class Result(NamedTuple):
    """Accuracy with the statistics of training, with those estimated anew, and process seconds of the steps."""

    plain: float
    estimated: float
    seconds: float


def build(seed: int) -> Built:
    """Build the network; names are the same every time."""
    main, startup = paddle.static.Program(), paddle.static.Program()
    main.random_seed = startup.random_seed = seed + 1
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        image = paddle.static.data('image', [None, 1, 28, 28], 'float32')
        label = paddle.static.data('label', [None, 1], 'int64')
        logits = network(image)
        loss = functional.cross_entropy(logits, label)
    return Built(main, startup, loss, logits)


def pretrained(seed: int, images: Array, labels: Array, epochs: int) -> dict[str, Array]:
    """Train in float and return the parameters."""
    built, scope = build(seed), paddle.static.Scope()
    with paddle.static.program_guard(built.program, built.startup), paddle.utils.unique_name.guard('float_'):
        paddle.optimizer.Adam(RATE).minimize(built.loss)
    executor, rng = slim.Executor(), np.random.default_rng(seed)
    executor.run(built.startup, scope=scope)
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            executor.run(built.program, {'image': images[rows], 'label': labels[rows]}, scope=scope)
    return {var.name(): load_array(scope, var.name()) for var in GraphWrapper(built.program).all_parameters()}


def train_quantized(seed: int, way: dict[str, Any], weights: dict[str, Array], data: Any, steps: int) -> Result:
    """Train quantized from float weights, and measure."""
    built, scope, place = build(seed), paddle.static.Scope(), paddle.CPUPlace()
    for name, array in weights.items():
        store_array(scope, name, array)
    test = quant_aware(built.program, place, way, scope, for_test=True)
    train = quant_aware(built.program, place, way, scope)
    startup = paddle.static.Program()
    with paddle.static.program_guard(train, startup), paddle.utils.unique_name.guard('quantized_'):
        rate = paddle.optimizer.lr.CosineAnnealingDecay(PEAK, steps)
        paddle.optimizer.Adam(rate).minimize(lookup(train, built.loss))
    executor, rng = slim.Executor(), np.random.default_rng(seed + 100)
    executor.run(startup, scope=scope)
    images, labels = data.train.images, np.asarray(data.train.labels).reshape(-1, 1)

    def feed() -> dict[str, Array]:
        rows = rng.choice(len(images), TRAINED, replace=False)
        return {'image': images[rows], 'label': labels[rows]}

    start = time.process_time()
    for _ in range(steps):
        executor.run(train, feed(), scope=scope)
        rate.step()
    seconds = time.process_time() - start
    labelled = {'image': data.test.images, 'label': np.asarray(data.test.labels).reshape(-1, 1)}
    plain = accuracy(executor, test, built.logits, labelled, scope)
    reestimate_batch_norm(train, [feed() for _ in range(ESTIMATED)], scope)
    return Result(plain, accuracy(executor, test, built.logits, labelled, scope), seconds)


def accuracy(executor: Any, program: Any, logits: Any, feed: dict[str, Array], scope: Any) -> float:
    """Return the fraction of images that are recognized."""
    (found,) = executor.run(program, feed, [logits], scope=scope)
    return float((found.argmax(1) == feed['label'][:, 0]).mean())


def one_seed(seed: int, quick: bool) -> Iterator[tuple[str, Result]]:
    """Train in float, and quantized in every way."""
    data = slim.data.digits(size=28, sizes=(1297, 0, 500))
    labels = np.asarray(data.train.labels).reshape(-1, 1)
    weights = pretrained(seed, data.train.images, labels, 1 if quick else EPOCHS)
    for name, way in WAYS.items():
        yield name, train_quantized(seed, way, weights, data, 3 if quick else STEPS)


def section(results: dict[str, list[Result]], build_of_paddle: str) -> str:
    """Return the section of the page."""
    count = len(next(iter(results.values())))
    text = [
        HEADING,
        '',
        f'The same network with batch norm, trained in float for {EPOCHS} epochs, then quantized for {STEPS} steps of '
        f'{TRAINED} images',
        f'(`quant_training_accuracy.py`): Adam, learning rate {PEAK} falling to 0 along a cosine; {count} seeds, '
        f'{build_of_paddle}, one thread.',
        f'The last columns are after `reestimate_batch_norm` with {ESTIMATED} batches: the moving statistics of '
        'training lag behind weights that',
        'jump between so few values. Two bits are three values for each output channel.',
        '',
    ]
    rows = {
        name: [
            f'{mean(found, "plain"):.3f}',
            *spread([item.estimated for item in found]),
            f'{mean(found, "seconds"):.1f}',
        ]
        for name, found in results.items()
    }
    ways = ['weight bits', 'activation bits', 'scales']
    head = [*ways, 'mean', 'estimated anew: mean', 'lowest', 'highest', 'process seconds']
    return '\n'.join([*text, *markdown_table(head, rows)]) + '\n'


def main() -> None:
    """Run all seeds and write the section."""
    options = arguments(__doc__, 'one epoch and few steps').parse_args()
    paddle.enable_static()
    text = section(collected(options.seeds, lambda seed: one_seed(seed, options.quick)), build_of_paddle())
    print(text)
    if not options.quick:
        write_section(PAGE, HEADING, text)


if __name__ == '__main__':
    main()
