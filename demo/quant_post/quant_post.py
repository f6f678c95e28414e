"""Quantize a classifier after training: every observer from one pass over some images, files, and what they bring.

    python quant_post.py                                      trains on digits first
    python quant_post.py --model_path quantized/float --algo KL hist --weight_bits 4

The observers look at the same statistics. For each, a file is written and checked, and its accuracy measured twice: in
Paddle's executor, which computes what was simulated, and in Paddle Inference with int8 kernels. The observer that is
best on the validation part is kept, converted for the phone, and measured beside the float model.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paddle

import paddleslim_ng as slim
from paddleslim_ng.errors import DeployError
from paddleslim_ng.runtime import InferenceModel
from paddleslim_ng.runtime.predictor_process import PredictorProcess

BATCH = 64


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
    parser.add_argument('--repeats', type=int, default=20, help='counted runs of each model (default: 20)')
    parser.add_argument('--engines', nargs='+', metavar='NAME', help='to measure on: onednn, int8, ... (default: all)')
    parser.add_argument('--output', type=Path, default=Path('quantized'), help='folder of the results')
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


def accuracy(scores: Callable[[Any], Any], part: Any) -> float:
    """Return the share of images whose class has the highest score."""
    right = 0
    for images, labels in slim.data.BatchReader(part, 100)():
        right += int((scores(images).argmax(axis=1) == labels[:, 0]).sum())
    return right / len(part)


def in_executor(model: InferenceModel) -> Callable[[Any], Any]:
    def scores(images: Any) -> Any:
        return slim.Executor().run(model.program, {model.feeds[0]: images}, model.fetches, scope=model.scope)[0]

    return scores


def in_int8(files: slim.quant.ExportedModel, part: Any) -> float | None:
    """Return the accuracy of Paddle Inference's int8 kernels; None where they cannot run here."""
    try:
        with PredictorProcess(files.program_file, files.parameter_file, precision='int8') as process:

            def scores(images: Any) -> Any:
                process.set_inputs({process.inputs[0]: images})
                process.run()
                return next(iter(process.outputs().values()))

            return accuracy(scores, part)
    except DeployError as error:
        print(f'int8 is left out: {error}')
        return None


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
    reloaded = in_executor(slim.runtime.load_inference_model(files.prefix, paddle.static.Scope()))
    validation, test = accuracy(reloaded, parts.validation), accuracy(reloaded, parts.test)
    return Row(validation, test, in_int8(files, parts.test), files.file_bytes)


def show(before: Row, rows: Mapping[str, Row]) -> None:
    print(f'{"":<8} {"validation":>10} {"test":>6} {"test, int8 kernels":>18} {"bytes":>9}')
    for name, row in {'float': before, **rows}.items():
        kernels = '-' if row.int8_kernels is None else f'{row.int8_kernels:.4f}'
        print(f'{name:<8} {row.validation:>10.4f} {row.test:>6.4f} {kernels:>18} {row.file_bytes:>9,}')


def finish(best: str, float_model: Path, images: Any, options: argparse.Namespace) -> None:
    """Keep the files of one observer, convert them for the phone, and say what they bring."""
    for suffix in ('.pdmodel', '.pdiparams'):
        shutil.copyfile(options.output / f'{best}{suffix}', options.output / f'int8{suffix}')
    chosen = options.output / 'int8'
    try:
        print(slim.deploy.to_lite(chosen, options.output / 'int8-arm', 'arm', 'int8').report)
    except DeployError as error:
        print(f'Paddle Lite is left out: {error}')
    found = slim.deploy.measure(
        {'int8': chosen}, {'image': images}, original=float_model, engines=options.engines, repeats=options.repeats
    )
    print(found)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    paddle.enable_static()
    options.output.mkdir(parents=True, exist_ok=True)
    ir = 'PIR' if paddle.framework.in_pir_mode() else 'legacy'
    print(f'Paddle {paddle.__version__}, {ir} programs; seed {options.seed}')
    parts = slim.data.digits(options.image_size, sizes=(1097, 200, 500))
    path = options.model_path or train(options, parts.train)
    model = slim.runtime.load_inference_model(path, paddle.static.Scope())
    scores = in_executor(model)
    size = sum(file.stat().st_size for file in slim.runtime.inference_model.model_files(path))
    before = Row(accuracy(scores, parts.validation), accuracy(scores, parts.test), None, size)

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
    figures = {name: row._asdict() for name, row in {'float': before, **rows}.items()}
    slim.runtime.atomic_write(options.output / 'figures.json', json.dumps(figures, indent=1) + '\n')
    print(f'kept: {best}, the best on the validation part')
    finish(best, path, images[:BATCH], options)


if __name__ == '__main__':
    try:
        main()
    except slim.SlimError as error:
        raise SystemExit(f'error: {error}') from error
