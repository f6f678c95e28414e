"""Give every layer the bits that it needs: sensitivities, exact choices under two budgets, and what they bring.

    python mixed_precision.py
    python mixed_precision.py --average_bits 2.5 --share 0.08 --bits 2 3 4 5 6 8

Three bits for every weight are compared with choices at random and with those of an exact knapsack that take no more
of the budget: rounded to the nearest integers, with integers chosen by reconstruction, and fine-tuned. Activations
have 8 bits. Bits are chosen by the outputs on images of the training part, without labels. The reconstructed choice
of the first budget is exported, converted for the phone, and measured beside the float model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paddleslim_ng as slim
from paddleslim_ng.quant import BitAllocation, BitEnvironment, QuantizedVariants, RandomBitSampler, bit_layers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import quantized_digits as digits


class Row(NamedTuple):
    """One choice of bits: mean width and bytes of the weights, loss, and accuracies on the test part."""

    average_bits: float
    stored_bytes: int
    divergence: float
    rounded: float
    reconstructed: float | None = None
    fine_tuned: float | None = None


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    widths = [2, 3, 4, 6, 8]
    shown = ' '.join(map(str, widths))
    parser.add_argument('--bits', type=int, nargs='+', default=widths, help=f'widths to choose from (default: {shown})')
    parser.add_argument('--average_bits', type=float, default=3.0, help='the first budget (default: 3)')
    parser.add_argument(
        '--share', type=float, default=0.1, help='the second: bytes of the weights, of those in float (default: 0.1)'
    )
    parser.add_argument('--draws', type=int, default=10, help='choices at random (default: 10)')
    parser.add_argument('--iterations', type=int, default=100, help='of reconstruction, each block (default: 100)')
    parser.add_argument('--tune_steps', type=int, default=60, help='of fine-tuning; 0 leaves it out (default: 60)')
    parser.add_argument('--tune_lr', type=float, default=0.002, help='learning rate of these (default: 0.002)')
    digits.add_flags(parser, 'ResNet18', 0.125, 'mixed')
    parser.set_defaults(images=128)
    return parser.parse_args(arguments)


class Work:
    """What all choices are tried on."""

    def __init__(self, net: digits.Network, parts: Any, options: argparse.Namespace) -> None:
        self.net, self.parts, self.options = net, parts, options
        self.model = slim.quant.fold_batch_norm(*net.model()).model
        images = parts.train.images[: options.images]
        feeds = slim.quant.read_feeds(slim.runtime.data_inputs(self.model.program), images, batch_size=digits.BATCH)
        self.variants = QuantizedVariants(self.model, feeds, algo='mse')
        self.activations = {tensor.name: 8 for tensor in self.variants.template.of_kind('activation')}
        # A second run with the same settings reads the file.
        file = options.output / 'sensitivities.json'
        self.sensitivities = slim.quant.bit_sensitivity(self.variants, bits=options.bits, file=file, progress=False)
        self.elements = sum(size.elements for size in self.sensitivities.sizes.values())

    def rounded(self, bits: Mapping[str, int]) -> Row:
        """Quantize weights with these bits."""
        sizes = self.sensitivities.sizes
        mean = sum(sizes[name].elements * width for name, width in bits.items()) / self.elements
        stored = sum(sizes[name].stored_bytes(width) for name, width in bits.items())
        divergence = self.variants.loss({**bits, **self.activations})
        return Row(mean, stored, divergence, digits.accuracy(digits.in_executor(self.variants.model), self.parts.test))

    def reconstructed(self, choice: BitAllocation, name: str) -> tuple[float, slim.quant.ExportedModel]:
        """Choose integers anew with these bits, and write the files."""
        spec = self.variants.spec({**choice.bits, **self.activations})
        learning = slim.quant.Learning(iterations=self.options.iterations, seed=self.options.seed)
        done = slim.quant.reconstruct(self.model, spec, self.variants.feeds, activations=False, learning=learning)
        program, feeds, fetches, scope = done.model
        files = slim.quant.export_quantized(program, spec, self.options.output / name, feeds, fetches, scope)
        return digits.accuracy(digits.reloaded(files.prefix), self.parts.test), files

    def fine_tuned(self, choice: BitAllocation) -> float:
        """Train on with these bits on the grids of the low-bit kit; activations stay in float."""
        options, net = self.options, digits.with_weights_of(self.net)
        quantizer = slim.quant.UniformQuantizer(choice.quantized, bucket='channel', quantize_all_layers=True)
        done = quantizer.apply(net.program, net.scope)
        feeds = digits.batches(self.parts.train, options.tune_steps, options.seed + 1)
        schedule = digits.minimize(net.program, net.loss, net.scope, options.tune_lr, options.tune_steps)
        digits.fit(net.program, net.scope, feeds, [schedule.step])
        digits.estimate_batch_norm(net.program, self.parts.train, net.scope, options.seed)
        done.finish(net.scope)
        return digits.accuracy(digits.in_executor(net.model()), self.parts.test)


def choices(work: Work, options: argparse.Namespace) -> dict[str, BitAllocation]:
    """Choose bits in several ways."""
    print(work.sensitivities)
    allocator, size = work.sensitivities.allocator(), options.share * 4 * work.elements
    uniform = max((width for width in options.bits if width <= options.average_bits), default=min(options.bits))

    def within(made: slim.quant.BitAllocator) -> BitAllocation:
        return made.within_average(options.average_bits)

    found = {
        'average': within(allocator),
        'refined': slim.quant.refine_bits(work.variants, work.sensitivities, within, rounds=1),
        'bytes': allocator.within_bytes(size),
    }
    for name, choice in found.items():
        print(f'{name}: {choice}')
    return {f'all {uniform}': allocator.uniform(uniform), **found}


def at_random(work: Work, options: argparse.Namespace) -> Row:
    """Return the means over choices at random within the first budget."""
    layers = bit_layers(work.variants.template, work.model.scope)
    environment = BitEnvironment(layers, options.average_bits, lowest=min(options.bits), highest=max(options.bits))
    sampler = RandomBitSampler(environment, seed=options.seed)
    rows = [work.rounded(sampler.ask()) for _ in range(options.draws)]
    bits, stored, divergence, right = (statistics.mean(column) for column in list(zip(*rows))[:4])
    return Row(bits, round(stored), divergence, right)


def show(rows: Mapping[str, Row]) -> None:
    head = f'{"":<8} {"bits":>6} {"bytes":>9} {"divergence":>10}'
    print(f'{head} {"rounded":>8} {"reconstructed":>13} {"fine-tuned":>10}')
    for name, row in rows.items():
        last = ['-' if value is None else f'{value:.4f}' for value in row[4:]]
        shown = f'{row.average_bits:>6.2f} {row.stored_bytes:>9,} {row.divergence:>10.4f} {row.rounded:>8.4f}'
        print(f'{name:<8} {shown} {last[0]:>13} {last[1]:>10}')


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    parts = digits.begin(options)
    net = digits.build(options)
    digits.train_in_float(net, parts.train, options)
    path = options.output / 'float'
    digits.save(net.model(), path)
    before = digits.accuracy(digits.reloaded(path), parts.test)

    work = Work(net, parts, options)
    found = choices(work, options)
    rows = {'float': Row(32.0, 4 * work.elements, 0.0, before), 'random': at_random(work, options)}
    for name, choice in found.items():
        right, files = work.reconstructed(choice, name.replace(' ', '-'))
        tuned = work.fine_tuned(choice) if options.tune_steps else None
        rows[name] = work.rounded(choice.bits)._replace(reconstructed=right, fine_tuned=tuned)
        print(files)
    show(rows)
    digits.write_figures(rows, options)
    digits.deliver(options.output / 'average', path, parts.train.images[: digits.BATCH], options)


if __name__ == '__main__':
    try:
        main()
    except slim.SlimError as error:
        raise SystemExit(f'error: {error}') from error
