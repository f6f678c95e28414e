"""Accuracy of mixed precision at three bits on average on digits, and MIXED_PRECISION_ACCURACY.md next to this file.

    FLAGS_enable_pir_api=1 OMP_NUM_THREADS=1 python benchmarks/mixed_precision_accuracy.py [--seeds 3] [--quick]

The networks of `quant_accuracy.py`. Weights alone are quantized, one scale for each output channel. Bits are chosen
without labels, by the divergence of the outputs on images of the training part; ways that try allocations are allowed
as many of them as the sensitivities take. The test part is looked at once, for the table.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import paddle
from accuracy_pages import SPREAD, arguments, build_of_paddle, collected, mean, spread, write_page
from accuracy_pages import table as markdown_table
from quant_accuracy import CALIBRATION, EPOCHS, IMAGES, LEARNING, accuracy, trained

import paddleslim_ng as slim
from paddleslim_ng.quant import BitEnvironment, OptunaBitSampler, QuantizedVariants, RandomBitSampler, bit_layers
from paddleslim_ng.runtime import InferenceModel

WIDTHS = (2, 3, 4, 5, 6, 8)
BUDGET = 3.0
RECONSTRUCTED = ('uniform', 'knapsack', 'refined')


class Result(NamedTuple):
    """Accuracy, divergence and process seconds of a way."""

    accuracy: float
    divergence: float
    seconds: float


class Seed:
    """One network, and what bits do to it."""

    def __init__(self, model: InferenceModel, feeds: list[dict[str, Any]], test: tuple[Any, Any]) -> None:
        self.model, self.feeds, self.test = model, feeds, test
        start = time.process_time()
        self.variants = QuantizedVariants(model, feeds, algo='mse')
        self.sensitivities = slim.quant.bit_sensitivity(self.variants, bits=WIDTHS, progress=False)
        self.seconds = time.process_time() - start
        self.allocator = self.sensitivities.allocator()
        self.trials = len(WIDTHS) * len(self.sensitivities.losses)

    def choices(self) -> dict[str, Callable[[], Mapping[str, int]]]:
        """Return what chooses bits, by the name of the way."""
        return {
            'uniform': lambda: self.allocator.uniform(3).bits,
            f'random, best of {self.trials} by divergence': lambda: self._search(RandomBitSampler),
            f'TPE, {self.trials} trials': lambda: self._search(OptunaBitSampler),
            'knapsack': lambda: self._within(self.allocator).bits,
            'refined': lambda: slim.quant.refine_bits(self.variants, self.sensitivities, self._within, rounds=2).bits,
        }

    def random_accuracies(self, count: int = 15) -> list[float]:
        """Return the accuracy of allocations drawn at random."""
        sampler = RandomBitSampler(self._environment(), seed=1)
        return [self.quantized(sampler.ask())[0] for _ in range(count)]

    def quantized(self, bits: Mapping[str, int]) -> tuple[float, float]:
        """Return the accuracy on the test part and the divergence."""
        divergence = self.variants.loss(bits)
        return accuracy(self.variants.model, *self.test), divergence

    def reconstructed(self, bits: Mapping[str, int]) -> float:
        """Return the accuracy where integers of weights are chosen by reconstruction."""
        spec = self.variants.spec(bits)
        options: dict[str, Any] = {'level': 'region-wise', 'activations': False, 'learning': LEARNING}
        done = slim.quant.reconstruct(self.model, spec, self.feeds, **options)
        program, scope = slim.quant.simulate(done.model.program, spec, done.model.scope)
        graph = slim.GraphWrapper(program)
        fetches = [graph.var(slim.GraphWrapper.name_of(item)).raw for item in self.model.fetches]
        return accuracy(InferenceModel(program, self.model.feeds, fetches, scope), *self.test)

    @staticmethod
    def _within(allocator: Any) -> Any:
        return allocator.within_average(BUDGET)

    def _environment(self) -> BitEnvironment:
        return BitEnvironment(bit_layers(self.variants.template, self.model.scope), BUDGET)

    def _search(self, sampler: Callable[..., Any]) -> Mapping[str, int]:
        found = slim.quant.search_bits(
            sampler(self._environment(), seed=0), lambda bits: -self.variants.loss(bits), self.trials
        )
        return found.bits


def one_seed(seed: int, quick: bool) -> Iterator[tuple[str, Result]]:
    """Train, and give bits in every way."""
    data = slim.data.digits(size=28, sizes=(1297, 0, 500))
    images, labels = data.train.images, np.asarray(data.train.labels).reshape(-1, 1)
    test = data.test.images, np.asarray(data.test.labels)
    model = trained(seed, images, labels, 1 if quick else EPOCHS)
    yield 'float', Result(accuracy(model, *test), 0.0, 0.0)
    chosen = images[: IMAGES if quick else CALIBRATION]
    feeds = [{'image': chosen[start : start + IMAGES]} for start in range(0, len(chosen), IMAGES)]
    work = Seed(model, feeds, test)
    drawn = work.random_accuracies()
    yield 'random, mean of 15', Result(statistics.mean(drawn), float('nan'), 0.0)
    yield 'random, the best of 15 on the test part', Result(max(drawn), float('nan'), 0.0)
    for name, choose in work.choices().items():
        start = time.process_time()
        bits = choose()
        seconds = time.process_time() - start + (work.seconds if name in ('knapsack', 'refined') else 0.0)
        found, divergence = work.quantized(bits)
        yield name, Result(found, divergence, seconds)
        if name in RECONSTRUCTED:
            start = time.process_time()
            better = work.reconstructed(bits)
            yield f'{name}, reconstructed', Result(better, float('nan'), seconds + time.process_time() - start)


def table(results: dict[str, list[Result]], build: str) -> str:
    """Return the page."""
    count = len(next(iter(results.values())))
    text = [
        '# Accuracy of mixed precision',
        '',
        f'Digits, 28x28, 1,297 images to train with and 500 to test on; one image is .002. {count} seeds, {build}, one',
        'thread. The networks of `quant_accuracy.py`, batch norms folded; weights alone are quantized, to three bits',
        f'on average (widths {", ".join(map(str, WIDTHS))}), one scale for each output channel. Bits are chosen by the',
        f'divergence (KL, nats) of the outputs on {CALIBRATION} images from the training part, without labels.',
        f'Reconstruction: region-wise, {LEARNING.iterations} steps of {LEARNING.batch_size} images. Seconds of the',
        'knapsack count the sensitivities.',
        '',
    ]
    rows = {}
    for name, found in results.items():
        divergence = mean(found, 'divergence')
        shown = '' if divergence != divergence else f'{divergence:.4f}'
        rows[name] = [*spread([item.accuracy for item in found]), shown, f'{mean(found, "seconds"):.1f}']
    return '\n'.join([*text, *markdown_table(['way', *SPREAD, 'divergence', 'process seconds'], rows)]) + '\n'


def main() -> None:
    """Run all seeds and write the page."""
    options = arguments(__doc__, 'one epoch and few images').parse_args()
    paddle.enable_static()
    text = table(collected(options.seeds, lambda seed: one_seed(seed, options.quick)), build_of_paddle())
    print(text)
    if not options.quick:
        write_page('MIXED_PRECISION_ACCURACY.md', text)


if __name__ == '__main__':
    main()
