"""Quantize a classifier after training: every observer from one pass over some images, files, and what they bring.

    python quant_post.py                                      trains on digits first
    python quant_post.py --model_path quantized/float --algo KL hist --weight_bits 4

The observers look at the same statistics. For each, a file is written and checked, and its accuracy measured twice: in
Paddle's executor, which computes what was simulated, and in Paddle Inference with int8 kernels. The observer that is
best on the validation part is kept, converted for the phone, and measured beside the float model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paddle

import paddleslim_ng as slim
from paddleslim_ng.runtime import InferenceModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import quantized_digits as digits

BATCH = digits.BATCH


class Row(NamedTuple):
    """One observer: accuracies on the validation part, and on the test part."""

    validation: float
    test: float
    int8_kernels: float | None
    file_bytes: int


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model_path', type=Path, help='a float model that reads digits; trained here where missing')
    parser.add_argument('--model', default='ResNet18', help='one of slim.models.MODELS (default: ResNet18)')
    parser.add_argument('--scale', type=float, default=0.25, help='multiplier of its channels (default: 0.25)')
    parser.add_argument('--image_size', type=int, default=20, help='side of the images (default: 20)')
    parser.add_argument('--steps', type=int, default=150, help='of training, 64 images each (default: 150)')
    parser.add_argument('--lr', type=float, default=0.05, help='learning rate at the start (default: 0.05)')
    parser.add_argument('--images', type=int, default=256, help='images to calibrate with (default: 256)')
    parser.add_argument(
        '--algo', nargs='+', default=list(slim.quant.OBSERVERS), metavar='NAME', help='observers (default: all)'
    )
    parser.add_argument('--weight_bits', type=int, default=8, help='2 to 8 (default: 8)')
    parser.add_argument('--activation_bits', type=int, default=8, help='2 to 8 (default: 8)')
    parser.add_argument('--weight_quantize_type', default='channel_wise_abs_max', help='or abs_max')
    parser.add_argument('--seed', type=int, default=0, help='of weights and orders (default: 0)')
    digits.add_measuring_flags(parser, 'quantized')
    return parser.parse_args(arguments)


def train(options: argparse.Namespace, part: Any) -> Path:
    """Train a network and save it."""
    rate = paddle.optimizer.lr.CosineAnnealingDecay(options.lr, options.steps)
    shape = [1, options.image_size, options.image_size]
    net = slim.models.build_classifier(
        options.model,
        shape,
        10,
        optimizer=paddle.optimizer.Momentum(rate, 0.9, weight_decay=paddle.regularizer.L2Decay(1e-4)),
        seed=options.seed,
        model_kwargs={'scale': options.scale},
    )
    done = 0
    while done < options.steps:
        for images, labels in slim.data.BatchReader(part, BATCH, shuffle=True, seed=done, drop_last=True)():
            net.exe.run(net.train_program, {'image': images, 'label': labels}, [])
            rate.step()
            done += 1
            if done == options.steps:
                break
    path: Path = options.output / 'float'
    # Logits rather than probabilities: a softmax hides what quantization changes.
    slim.runtime.save_inference_model(net.val_program, path, ['image'], [net.logits], executor=net.exe)
    return path


def try_observer(
    algo: str, model: InferenceModel, seen: Any, images: Any, parts: Any, options: argparse.Namespace
) -> Row:
    """Write the files of one observer, and measure their accuracy."""
    limits = {name: slim.quant.threshold(seen[name], algo, bits=options.activation_bits) for name in seen}
    spec = slim.quant.spec_from_thresholds(
        model.program,
        limits,
        scope=model.scope,
        weight_bits=options.weight_bits,
        activation_bits=options.activation_bits,
        weight_quantize_type=options.weight_quantize_type,
    )
    program, feeds, fetches, scope = model
    files = slim.quant.export_quantized(
        program, spec, options.output / algo, feeds, fetches, scope, feed={feeds[0]: images[:BATCH]}
    )
    scores = digits.reloaded(files.prefix)
    validation, test = digits.accuracy(scores, parts.validation), digits.accuracy(scores, parts.test)
    return Row(validation, test, digits.in_inference(files.prefix, parts.test, 'int8'), files.file_bytes)


def show(before: Row, rows: Mapping[str, Row]) -> None:
    print(f'{"":<8} {"validation":>10} {"test":>6} {"test, int8 kernels":>18} {"bytes":>9}')
    for name, row in {'float': before, **rows}.items():
        kernels = '-' if row.int8_kernels is None else f'{row.int8_kernels:.4f}'
        print(f'{name:<8} {row.validation:>10.4f} {row.test:>6.4f} {kernels:>18} {row.file_bytes:>9,}')


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    parts = digits.begin(options)
    path = options.model_path or train(options, parts.train)
    model = slim.runtime.load_inference_model(path, paddle.static.Scope())
    scores = digits.in_executor(model)
    size = sum(file.stat().st_size for file in slim.runtime.inference_model.model_files(path))
    before = Row(digits.accuracy(scores, parts.validation), digits.accuracy(scores, parts.test), None, size)

    # Batch norms become part of the weights; then one pass over the images serves every observer.
    folded = slim.quant.fold_batch_norm(*model).model
    images = parts.train.images[: options.images]
    feeds = slim.quant.read_feeds(slim.runtime.data_inputs(folded.program), images, batch_size=BATCH)
    seen = slim.quant.calibrate(
        folded.program, feeds, slim.quant.find_targets(folded.program).activations, folded.scope
    )
    rows = {algo: try_observer(algo, folded, seen, images, parts, options) for algo in options.algo}
    show(before, rows)
    best = max(rows, key=lambda algo: rows[algo].validation)
    digits.write_figures({'float': before, **rows}, options)
    print(f'kept: {best}, the best on the validation part')
    digits.deliver(options.output / best, path, images[:BATCH], options)


if __name__ == '__main__':
    try:
        main()
    except slim.SlimError as error:
        raise SystemExit(f'error: {error}') from error
