"""Accuracy of low-bit weights on digits before and after a few steps of training, and LOW_BIT_ACCURACY.md here.

    FLAGS_enable_pir_api=1 OMP_NUM_THREADS=1 python benchmarks/low_bit_accuracy.py [--seeds 3] [--quick]

The network of quant_accuracy.py is trained in float, for every seed; then its weights are quantized in different ways,
and it is trained on for 30 steps of 64 images. The first and the last layer are quantized as well. The learning rate of
these steps was chosen on the last 297 images of the training part; the test part is looked at for the table alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle
from accuracy_pages import arguments, build_of_paddle, collected, mean, spread, write_page
from accuracy_pages import table as markdown_table
from paddle.nn import functional
from quant_accuracy import BATCH, EPOCHS, RATE, network

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.quant import NonUniformQuantizer, UniformQuantizer, tune_layerwise
from paddleslim_ng.runtime import InferenceModel

Array = npt.NDArray[Any]
STEPS, LAYER_STEPS = 30, 100
TUNING_RATE = 0.003
LAYER_RATE = 0.03
ALL = {'quantize_all_layers': True}


class Way(NamedTuple):
    """One way to quantize: a row of the table."""

    name: str
    bits: int
    quantizer: Callable[[], Any]
    layerwise: int = 0  # steps for each layer, before anything is measured


def uniform(bits: int, bucket: str | None, activations: int = 32) -> Way:
    """Return a row of uniform grids."""
    bucket_name = {None: 'whole weight', 'channel': 'channel', 'split': 'split 256'}[bucket]
    name = f'uniform, {bucket_name}' + (f', {activations}-bit activations' if activations < 32 else '')
    return Way(name, bits, lambda: UniformQuantizer(bits, activations, bucket, **ALL))


def codebook(bits: int, init: str, train: str, bucket: str | None = None) -> Way:
    """Return a row of codebooks."""
    name = f'codebook from {init}, {train}' + (f', {bucket}' if bucket else '')
    return Way(name, bits, lambda: NonUniformQuantizer(bits, init, train, bucket=bucket, **ALL))


WAYS = (
    *(uniform(bits, bucket) for bits in (2, 4) for bucket in (None, 'channel', 'split')),
    uniform(4, 'channel', 4),
    *(codebook(bits, init, 'both') for bits in (2, 4) for init in ('uniform', 'quantile', 'kmeans')),
    *(
        way._replace(name=f'{way.name}, {LAYER_STEPS} steps a layer before', layerwise=LAYER_STEPS)
        for way in (uniform(2, None), uniform(2, 'channel'), codebook(2, 'kmeans', 'both'))
    ),
    *(codebook(2, 'kmeans', train) for train in ('weights', 'clusters')),
    codebook(2, 'kmeans', 'both', 'channel'),
)


class Task(NamedTuple):
    """A network with its loss."""

    main: Any
    startup: Any
    logits: Any
    loss: Any


def build(seed: int) -> Task:
    """Build the network without optimizer."""
    main, startup = paddle.static.Program(), paddle.static.Program()
    main.random_seed = startup.random_seed = seed + 1
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        image = paddle.static.data('image', [None, 1, 28, 28], 'float32')
        label = paddle.static.data('label', [None, 1], 'int64')
        logits = network(image)
        return Task(main, startup, logits, functional.cross_entropy(logits, label))


def minimize(task: Task, rate: Any) -> None:
    """Build the backward pass and the optimizer."""
    with paddle.static.program_guard(task.main, task.startup):
        paddle.optimizer.Adam(rate).minimize(task.loss)


def train(task: Task, scope: Any, images: Array, labels: Array, steps: int, seed: int, scheduler: Any = None) -> None:
    """Take steps on images in random order."""
    executor, rng = slim.Executor(), np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(images)) for _ in range(1 + steps * BATCH // len(images))])
    for step in range(steps):
        rows = order[step * BATCH : (step + 1) * BATCH]
        executor.run(task.main, {'image': images[rows], 'label': labels[rows]}, scope=scope)
        if scheduler is not None:
            scheduler.step()


def accuracy(task: Task, scope: Any, images: Array, labels: Array) -> float:
    """Return the fraction of images that are recognized, in test mode."""
    program = slim.core.clone_program(task.main, for_test=True)
    feed = {'image': images, 'label': labels}
    (logits,) = slim.Executor().run(program, feed, [task.logits], scope=scope)
    return float((logits.argmax(1) == labels.reshape(-1)).mean())


def state(task: Task, scope: Any) -> dict[str, Array]:
    """Return the parameters."""
    return {var.name(): load_array(scope, var.name()) for var in GraphWrapper(task.main).all_parameters()}


class Result(NamedTuple):
    """Accuracy before and after the steps, and true bits of a weight."""

    before: float
    after: float
    bits: float


def tuned(way: Way, weights: dict[str, Array], data: tuple[Array, ...], seed: int, rate: float) -> Result:
    """Quantize trained weights and train on."""
    images, labels, test_images, test_labels = data
    task, scope = build(seed), paddle.static.Scope()
    for name, array in weights.items():
        store_array(scope, name, array)
    plain = slim.core.clone_program(task.main, for_test=True)
    done = way.quantizer().apply(task.main, scope)
    if way.layerwise:
        model = InferenceModel(plain, ['image'], [task.logits], scope)
        feeds = [{'image': images[start : start + 64]} for start in range(0, 512, 64)]
        tune_layerwise(done, model, feeds, steps=way.layerwise, lr=LAYER_RATE, seed=seed)
    kept = state(task, scope)
    before = accuracy(task, scope, test_images, test_labels)
    scheduler = paddle.optimizer.lr.CosineAnnealingDecay(rate, STEPS)
    minimize(task, scheduler)
    slim.Executor().run(task.startup, scope=scope)
    for name, array in kept.items():
        store_array(scope, name, array)
    train(task, scope, images, labels, STEPS, seed + 100, scheduler)
    return Result(before, accuracy(task, scope, test_images, test_labels), done.report.bits_per_weight)


def one_seed(seed: int, quick: bool, rates: tuple[float, ...], hold: bool, only: str) -> Iterator[tuple[str, Result]]:
    """Train in float, and quantize in every way."""
    digits = slim.data.digits(size=28, sizes=(1297, 0, 500))
    images, labels = digits.train.images, np.asarray(digits.train.labels).reshape(-1, 1)
    test = (digits.test.images, np.asarray(digits.test.labels).reshape(-1, 1))
    if hold:
        images, labels, test = images[:1000], labels[:1000], (images[1000:], labels[1000:])
    task, scope = build(seed), paddle.static.Scope()
    minimize(task, RATE)
    slim.Executor().run(task.startup, scope=scope)
    train(task, scope, images, labels, (1 if quick else EPOCHS) * (len(images) // BATCH), seed)
    base = accuracy(task, scope, *test)
    yield '32 | float', Result(base, base, 32.0)
    weights = state(task, scope)
    for way in WAYS:
        if only not in way.name:
            continue
        for rate in rates:
            found = tuned(way, weights, (images, labels, *test), seed, rate)
            print(f'seed {seed}, {way.bits} bit, {way.name}, rate {rate}: {found}', flush=True)
        yield f'{way.bits} | {way.name}', found


def table(results: dict[str, list[Result]], build_name: str) -> str:
    """Return the page."""
    count = len(next(iter(results.values())))
    text = [
        '# Accuracy of low-bit weights',
        '',
        'Digits, 28x28, 1,297 images to train with and 500 to test on; one image is .002. '
        f'{count} seeds, {build_name}, one',
        'thread. The network of `quant_accuracy.py` with its batch norms, trained for '
        f'{EPOCHS} epochs in float; the weights of all',
        f'convolutions and products quantized, then {STEPS} steps of {BATCH} images with Adam, from a rate of '
        f'{TUNING_RATE} down to 0',
        'on a cosine (see `low_bit_accuracy.py`). Bits of a weight count steps, offsets and points. '
        'Steps layer by layer are taken',
        'before what is called "before", against the float network on 512 images, without labels.',
        '',
    ]
    rows = {
        name: [f'{found[0].bits:.2f}', f'{mean(found, "before"):.3f}', *spread([item.after for item in found])]
        for name, found in results.items()
    }
    head = ['bits', 'way', 'bits of a weight', 'before', 'after, mean', 'lowest', 'highest']
    return '\n'.join([*text, *markdown_table(head, rows)]) + '\n'


def main() -> None:
    """Run all seeds and write the page."""
    parser = arguments(__doc__, 'one epoch')
    parser.add_argument(
        '--rates', type=float, nargs='+', help='try these on held-out training images; nothing is written'
    )
    parser.add_argument('--only', default='', help='ways with this in their name; nothing is written')
    options = parser.parse_args()
    paddle.enable_static()
    rates, hold = tuple(options.rates or [TUNING_RATE]), options.rates is not None
    results = collected(options.seeds, lambda seed: one_seed(seed, options.quick, rates, hold, options.only))
    text = table(results, build_of_paddle())
    print(text)
    if not (options.quick or options.rates or options.only):
        write_page('LOW_BIT_ACCURACY.md', text)


if __name__ == '__main__':
    main()
