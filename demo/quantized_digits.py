"""What the demos of quantization share: networks for digits, their training, accuracies, and what becomes of files."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paddle
from paddle.nn import functional

import paddleslim_ng as slim
from paddleslim_ng.errors import DeployError
from paddleslim_ng.runtime import InferenceModel, SavedModel
from paddleslim_ng.runtime.predictor_process import PredictorProcess
from paddleslim_ng.runtime.worker_process import WorkerProcess

BATCH = 64
ESTIMATED = 10  # batches that the statistics of batch norm are estimated from


class Network(NamedTuple):
    """A network before ``minimize``, its evaluation program, and its parameters."""

    program: Any
    evaluation: Any
    logits: Any
    loss: Any
    scope: Any

    def model(self) -> InferenceModel:
        """Return the part that leads from images to class scores; it reads what the scope holds then."""
        part = slim.core.cut_program(self.evaluation, ['image'], [self.logits])
        return InferenceModel(part, ['image'], [slim.core.lookup(part, self.logits)], self.scope)


def add_flags(parser: argparse.ArgumentParser, model: str, scale: float, output: str) -> None:
    parser.add_argument('--model', default=model, help=f'one of slim.models.MODELS (default: {model})')
    parser.add_argument('--scale', type=float, default=scale, help=f'multiplier of its channels (default: {scale:g})')
    parser.add_argument('--image_size', type=int, default=20, help='side of the images (default: 20)')
    parser.add_argument('--steps', type=int, default=150, help='in float, 64 images each (default: 150)')
    parser.add_argument('--lr', type=float, default=0.005, help='learning rate at the start (default: 0.005)')
    parser.add_argument('--images', type=int, default=256, help='images to calibrate with (default: 256)')
    parser.add_argument('--seed', type=int, default=0, help='of weights and orders (default: 0)')
    add_measuring_flags(parser, output)


def add_measuring_flags(parser: argparse.ArgumentParser, output: str) -> None:
    parser.add_argument('--repeats', type=int, default=20, help='counted runs of each model (default: 20)')
    parser.add_argument('--engines', nargs='+', metavar='NAME', help='to measure on: onednn, int8, ... (default: all)')
    parser.add_argument('-o', '--output', type=Path, default=Path(output), help=f'of the results (default: {output})')


def begin(options: argparse.Namespace) -> Any:
    """Say what this runs on, and return the digits."""
    paddle.enable_static()
    options.output.mkdir(parents=True, exist_ok=True)
    ir = 'PIR' if paddle.framework.in_pir_mode() else 'legacy'
    print(f'Paddle {paddle.__version__}, {ir} programs; seed {options.seed}')
    return slim.data.digits(options.image_size, sizes=(1097, 200, 500))


def build(options: argparse.Namespace) -> Network:
    """Build a network with initial parameters; names are the same every time."""
    program, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    program.random_seed = startup.random_seed = options.seed + 1  # to Paddle, 0 is no seed
    network = slim.models.create(options.model, scale=options.scale)
    with paddle.static.program_guard(program, startup), paddle.utils.unique_name.guard():
        image = paddle.static.data('image', [None, 1, options.image_size, options.image_size], 'float32')
        label = paddle.static.data('label', [None, 1], 'int64')
        network.net(image, class_dim=10)
        loss = functional.cross_entropy(network.logits, label)
    evaluation = slim.core.clone_program(program, for_test=True)
    slim.Executor().run(startup, scope=scope)
    return Network(program, evaluation, network.logits, loss, scope)


def with_weights_of(net: Network) -> Network:
    """Return the same network with parameters of its own."""
    scope = paddle.static.Scope()
    for var in slim.GraphWrapper(net.program).all_parameters():
        slim.core.store_array(scope, var.name(), slim.core.load_array(net.scope, var.name()))
    return Network(slim.core.clone_program(net.program), net.evaluation, net.logits, net.loss, scope)


def minimize(program: Any, loss: Any, scope: Any, rate: float, steps: int) -> Any:
    """Add Adam, whose rate falls along a cosine, and return the schedule. Parameters stay as they are."""
    startup = paddle.static.Program()
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(rate, steps)
    with paddle.static.program_guard(program, startup), paddle.utils.unique_name.guard('tuned_'):
        paddle.optimizer.Adam(schedule).minimize(slim.core.lookup(program, loss))
    slim.Executor().run(startup, scope=scope)
    return schedule


def batches(part: Any, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield ``count`` batches in a random order, as often through the part as it takes."""
    done = 0
    while done < count:
        for images, labels in slim.data.BatchReader(part, BATCH, shuffle=True, seed=seed + done, drop_last=True)():
            yield {'image': images, 'label': labels}
            done += 1
            if done == count:
                return


def fit(program: Any, scope: Any, feeds: Iterator[dict[str, Any]], after: Sequence[Callable[[], Any]]) -> None:
    """Train on batches, and call ``after`` between steps."""
    executor = slim.Executor()
    for feed in feeds:
        executor.run(program, feed, [], scope=scope)
        for act in after:
            act()


def train_in_float(net: Network, part: Any, options: argparse.Namespace) -> None:
    """Train a clone, so that the program stays as it is, without an optimizer, for training on."""
    program = slim.core.clone_program(net.program)
    schedule = minimize(program, net.loss, net.scope, options.lr, options.steps)
    fit(program, net.scope, batches(part, options.steps, options.seed), [schedule.step])


def estimate_batch_norm(program: Any, part: Any, scope: Any, seed: int) -> None:
    """Take the statistics of batch norm from the final weights: those of training lag behind what few bits do."""
    if any(op.type() == 'batch_norm' for op in slim.GraphWrapper(program).ops()):
        slim.quant.reestimate_batch_norm(program, list(batches(part, ESTIMATED, seed)), scope)


def accuracy(scores: Callable[[Any], Any], part: Any, batch: int = 100) -> float:
    """Return the share of images whose class has the highest score."""
    right = 0
    for images, labels in slim.data.BatchReader(part, batch)():
        right += int((scores(images).argmax(axis=1) == labels[:, 0]).sum())
    return right / len(part)


def in_executor(model: InferenceModel) -> Callable[[Any], Any]:
    def scores(images: Any) -> Any:
        return slim.Executor().run(model.program, {model.feeds[0]: images}, model.fetches, scope=model.scope)[0]

    return scores


def save(model: InferenceModel, path: Path) -> SavedModel:
    program, feeds, fetches, scope = model
    return slim.runtime.save_inference_model(program, path, feeds, fetches, scope)


def reloaded(path: Path) -> Callable[[Any], Any]:
    """Return what computes the scores of a saved model."""
    return in_executor(slim.runtime.load_inference_model(path, paddle.static.Scope()))


def files_of(path: Path) -> tuple[Path, Path]:
    return slim.runtime.inference_model.model_files(path)


def in_inference(path: Path, part: Any, precision: str = 'fp32') -> float | None:
    """Return the accuracy in Paddle Inference; None where its kernels of that precision cannot run here."""
    try:
        with PredictorProcess(*files_of(path), precision=precision) as process:
            return accuracy(in_process(process), part)
    except DeployError as error:
        print(f'{precision} in Paddle Inference is left out: {error}')
        return None


def in_lite(path: Path, part: Any, precision: str) -> float | None:
    """Return the accuracy in Paddle Lite on this machine, image by image; None where it cannot run here."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = slim.deploy.to_lite(path, Path(folder, 'x86'), 'x86', precision, check=False).file
            with slim.deploy.LiteProcess(file) as process:
                return accuracy(in_process(process), part, 1)
    except DeployError as error:
        print(f'{precision} in Paddle Lite is left out: {error}')
        return None


def in_process(process: WorkerProcess) -> Callable[[Any], Any]:
    def scores(images: Any) -> Any:
        process.set_inputs({process.inputs[0]: images})
        process.run()
        return next(iter(process.outputs().values()))

    return scores


def deliver(chosen: Path, float_model: Path, images: Any, options: argparse.Namespace) -> None:
    """Keep chosen files as ``int8``, convert them for the phone, and say what they bring on every engine."""
    kept = options.output / 'int8'
    for file in files_of(chosen):
        shutil.copyfile(file, kept.with_suffix(file.suffix))
    try:
        print(slim.deploy.to_lite(kept, options.output / 'int8-arm', 'arm', 'int8').report)
    except DeployError as error:
        print(f'Paddle Lite is left out: {error}')
    print(
        slim.deploy.measure(
            {'int8': kept}, {'image': images}, original=float_model, engines=options.engines, repeats=options.repeats
        )
    )


def write_figures(rows: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Write named tuples, by name, to ``figures.json``."""
    figures = {name: row._asdict() for name, row in rows.items()}
    slim.runtime.atomic_write(options.output / 'figures.json', json.dumps(figures, indent=1) + '\n')
