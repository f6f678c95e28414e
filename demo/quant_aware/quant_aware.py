"""Train a classifier with integers: float, quantized after training, and trained quantized, side by side.

    python quant_aware.py
    python quant_aware.py --way pact --quant_delay 30
    python quant_aware.py --way w8a8 w4a8 --sparse 0.75 --distill

For each way, the float network is quantized twice: from some images, and by training on with the rounding simulated.
What was trained becomes integers within Paddle's programs, and files in two formats, whose accuracies are measured in
Paddle's executor, which computes what was simulated, and in Paddle Inference with int8 kernels. The files of the first
way are converted for the phone, and measured beside the float model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paddle

import paddleslim_ng as slim
from paddleslim_ng.runtime import InferenceModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import quantized_digits as digits

LSQ = {'weight_quantize_type': 'channel_wise_lsq', 'activation_quantize_type': 'lsq'}
#: Configurations of slim.quant.quant_aware.
WAYS: dict[str, dict[str, Any]] = {
    'w8a8': {},
    'w4a8': {'weight_bits': 4},
    'w4a4': {'weight_bits': 4, 'activation_bits': 4},
    'lsq2': {'weight_bits': 2, **LSQ},
    'pact': {'weight_bits': 4, 'activation_bits': 4, **LSQ, 'activation_quantize_type': 'pact'},
}
FEW_BITS, RATES = 2, (0.003, 0.0005)  # weights of so few bits have far to go; others are better off with small steps
FORMATS = ('quantize_linear', 'fake_quantize')


class Row(NamedTuple):
    """One way: accuracies on the test part, share of zeros among the weights of the files, and their size."""

    post_training: float
    trained: float
    int8_kernels: float | None
    zeros: float
    file_bytes: int


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = ['w8a8', 'w4a4', 'lsq2']
    parser.add_argument('--way', nargs='+', choices=list(WAYS), default=ways, help=f'default: {" ".join(ways)}')
    parser.add_argument('--qat_steps', type=int, default=60, help='with integers (default: 60)')
    parser.add_argument('--qat_lr', type=float, help='learning rate of these (default: 0.003 for 2 bits, else 0.0005)')
    parser.add_argument('--quant_delay', type=int, default=0, help='first steps of these that round nothing')
    parser.add_argument('--sparse', type=float, metavar='RATIO', help='weights to set to zero on the way')
    parser.add_argument('--distill', action='store_true', help='learn from the float network, too')
    digits.add_flags(parser, 'ResNet18', 0.25, 'aware')
    return parser.parse_args(arguments)


def with_teacher(net: digits.Network, teacher: InferenceModel) -> Any:
    """Merge the float network into the program, and return a loss that compares the two."""
    merged = slim.dist.merge(teacher, net.program, {'image': 'image'}, paddle.CPUPlace(), net.scope)
    name = slim.GraphWrapper.name_of
    with paddle.static.program_guard(net.program, paddle.static.Program()):
        soft = slim.dist.soft_label(merged.outputs[0], name(net.logits))
        return slim.dist.combine([(name(net.loss), 1.0), (soft, 1.0)])[0]


def train_quantized(
    start: digits.Network, teacher: InferenceModel, config: Mapping[str, Any], part: Any, options: argparse.Namespace
) -> digits.Network:
    """Train on with integers simulated; return the network, whose evaluation program is quantized."""
    net, place = digits.with_weights_of(start), paddle.CPUPlace()
    loss = with_teacher(net, teacher) if options.distill else net.loss
    config = {**config, 'quant_delay': options.quant_delay}
    rate = options.qat_lr or RATES[config.get('weight_bits', 8) > FEW_BITS]
    train = slim.quant.quant_aware(net.program, place, config, net.scope)
    test = slim.quant.quant_aware(net.evaluation, place, config, net.scope, for_test=True)
    after: list[Callable[[], Any]] = [
        digits.minimize(train, loss, net.scope, rate, options.qat_steps).step,
    ]
    if options.sparse is not None:
        pruner = slim.prune.UnstructuredPruner(train, ratio=options.sparse, scope=net.scope)
        after.append(pruner.step)
    digits.fit(train, net.scope, digits.batches(part, options.qat_steps, options.seed + 1), after)
    digits.estimate_batch_norm(train, part, net.scope, options.seed)
    return digits.Network(train, test, net.logits, net.loss, net.scope)


def zeros(net: digits.Network) -> float:
    """Return the share of zeros among the integers of all weights."""
    found = [
        slim.quant.quantize(slim.core.load_array(net.scope, tensor.name), tensor)
        for tensor in slim.quant.spec_of(net.evaluation, net.scope).of_kind('weight')
    ]
    return sum(int((integers == 0).sum()) for integers in found) / sum(integers.size for integers in found)


def export(name: str, net: digits.Network, images: Any, options: argparse.Namespace) -> slim.quant.ExportedModel:
    """Write the files of both formats, and return those of the first."""
    made = [
        slim.quant.export_aware(
            net.evaluation,
            options.output / f'{name}-{format}',
            ['image'],
            [net.logits],
            net.scope,
            format=format,
            feed={'image': images},
        )
        for format in FORMATS
    ]
    for files in made:
        print(files)
    return made[0]


def try_way(name: str, start: digits.Network, parts: Any, options: argparse.Namespace) -> Row:
    """Quantize after training, and by training."""
    config, model = WAYS[name], start.model()
    bits = {key: config.get(key, 8) for key in ('weight_bits', 'activation_bits')}
    images = parts.train.images[: options.images]
    feeds = slim.quant.read_feeds(slim.runtime.data_inputs(model.program), images, batch_size=digits.BATCH)
    after = slim.quant.quantize_model(model, feeds, options.output / f'{name}-after', algo='mse', **bits)
    plain = digits.accuracy(digits.reloaded(after.exported.prefix), parts.test)

    net = train_quantized(start, model, config, parts.train, options)
    quantized = net.model()
    simulated = digits.accuracy(digits.in_executor(quantized), parts.test)
    integers = slim.quant.convert(quantized.program, paddle.CPUPlace(), config, net.scope, feed={'image': images[:8]})
    fetches = [slim.core.lookup(integers, net.logits)]
    converted = digits.accuracy(digits.in_executor(quantized._replace(program=integers, fetches=fetches)), parts.test)
    print(f'{name}: accuracy {simulated:.4f} with integers simulated, {converted:.4f} with integers in the program')
    files = export(name, net, images[: digits.BATCH], options)
    trained = digits.accuracy(digits.reloaded(files.prefix), parts.test)
    return Row(plain, trained, digits.in_inference(files.prefix, parts.test, 'int8'), zeros(net), files.file_bytes)


def show(before: float, size: int, rows: Mapping[str, Row]) -> None:
    print(f'{"":<6} {"after training":>14} {"trained":>8} {"int8 kernels":>12} {"zeros":>6} {"bytes":>9}')
    print(f'{"float":<6} {"":>14} {before:>8.4f} {"":>12} {"":>6} {size:>9,}')
    for name, row in rows.items():
        kernels = '-' if row.int8_kernels is None else f'{row.int8_kernels:.4f}'
        shown = f'{row.post_training:>14.4f} {row.trained:>8.4f} {kernels:>12} {row.zeros:>6.1%}'
        print(f'{name:<6} {shown} {row.file_bytes:>9,}')


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    parts = digits.begin(options)
    net = digits.build(options)
    digits.train_in_float(net, parts.train, options)
    path = options.output / 'float'
    saved = digits.save(net.model(), path)
    before = digits.accuracy(digits.reloaded(path), parts.test)

    rows = {name: try_way(name, net, parts, options) for name in options.way}
    show(before, saved.file_bytes, rows)
    digits.write_figures({'float': Row(before, before, None, 0.0, saved.file_bytes), **rows}, options)
    chosen = options.output / f'{options.way[0]}-{FORMATS[0]}'
    digits.deliver(chosen, path, parts.train.images[: digits.BATCH], options)


if __name__ == '__main__':
    try:
        main()
    except slim.SlimError as error:
        raise SystemExit(f'error: {error}') from error
