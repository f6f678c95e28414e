"""The main job, end to end: train a classifier, measure its sensitivities, prune it, fine-tune it, deploy it.

MobileNet on scikit-learn's handwritten digits. The validation split serves the sensitivities; the test split is used
for the reported accuracies and for the checks of the exported files only. Runs on PIR and on legacy programs alike;
everything lands in one folder: inference models, Paddle Lite's files for Arm and x86, and a report in HTML.

    python demo/prune_by_sensitivity.py --output build/demo
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml

import paddleslim_ng as slim
from paddleslim_ng.analysis import ModelFigures, Report, ReportTable
from paddleslim_ng.errors import DeployError
from paddleslim_ng.models.classification import Classifier, build_classifier

ROOT = Path(__file__).resolve().parents[1]
BATCH = 64


@dataclass
class Job:
    """What every step of the demo needs."""

    net: Classifier
    splits: slim.data.Splits
    schedule: Any
    output: Path
    lite: slim.deploy.LiteInterpreter | None = None
    lite_obstacle: str = ''


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, default=ROOT / 'configs' / 'prune_by_sensitivity.yaml')
    parser.add_argument('--output', type=Path, default=Path('build/demo'), help='folder for all results')
    floats, integers = ('scale', 'loss'), ('epochs', 'tune-epochs', 'params', 'round-to')
    for name, kind in (*((name, float) for name in floats), *((name, int) for name in integers)):
        parser.add_argument(f'--{name}', type=kind, help='overrides the configuration')
    parser.add_argument('--seed', type=int, help='overrides the configuration')
    given = parser.parse_args(arguments)
    settings = yaml.safe_load(given.config.read_text('utf-8'))
    unknown = set(settings) - {'ratio_runs', *vars(given)}
    if unknown:
        parser.error(f'{given.config} has unknown settings {sorted(unknown)}')
    return argparse.Namespace(**{**settings, **{key: value for key, value in vars(given).items() if value is not None}})


def learning_rate(epochs: int, tune_epochs: int, steps: int) -> Any:
    """Descend along a cosine from 0.05 while training, and from 0.02 while fine-tuning."""

    def rate(step: int) -> float:
        tuning = step >= epochs * steps
        done = (step - epochs * steps) / max(tune_epochs * steps, 1) if tuning else step / (epochs * steps)
        return (0.4 if tuning else 1.0) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))

    return paddle.optimizer.lr.LambdaDecay(0.05, rate)


def prepare(options: argparse.Namespace) -> Job:
    splits = slim.data.digits(size=28, seed=options.seed)
    schedule = learning_rate(options.epochs, options.tune_epochs, len(splits.train) // BATCH)
    optimizer = paddle.optimizer.Momentum(schedule, 0.9, weight_decay=paddle.regularizer.L2Decay(4e-5))
    net = build_classifier(
        'MobileNet',
        [1, 28, 28],
        10,
        optimizer=optimizer,
        seed=options.seed,
        model_kwargs={'scale': options.scale},
    )
    options.output.mkdir(parents=True, exist_ok=True)
    for stale in options.output.glob('sensitivities_*.json'):
        stale.unlink()  # they belong to the network of an earlier run
    job = Job(net, splits, schedule, options.output)
    try:
        job.lite = slim.deploy.find_interpreter()
    except DeployError as error:
        job.lite_obstacle = str(error)
        print(f'Paddle Lite is left out: {error}')
    return job


def train(job: Job, program: Any, epochs: int, seed: int) -> None:
    reader = slim.data.BatchReader(job.splits.train, BATCH, shuffle=True, seed=seed, drop_last=True)
    for epoch in range(epochs):
        start, losses = time.time(), []
        for batch in reader():
            feed = slim.data.make_feed(batch)
            top1, _, loss = job.net.exe.run(program, feed=feed, fetch_list=job.net.outputs)
            losses.append(float(loss))
            job.schedule.step()
        print(f'  epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}, {time.time() - start:.1f} s', flush=True)


def accuracy(job: Job, program: Any, part: slim.data.ArrayDataset) -> float:
    correct = 0.0
    for images, labels in slim.data.BatchReader(part, 100)():
        top1 = job.net.exe.run(program, feed={'image': images, 'label': labels}, fetch_list=job.net.outputs)[0]
        correct += float(np.mean(top1)) * len(images)
    return correct / len(part)


def sensitivities(job: Job, count: int, runs: Sequence[Sequence[float]]) -> dict[str, dict[float, float]]:
    """Analyse the pointwise convolutions in two runs, as two machines might, and merge the results."""
    program = job.net.val_program
    names = [p.name() for p in slim.GraphWrapper(program).all_parameters() if p.name().endswith('_sep_weights')][:count]

    def evaluate(evaluated: Any) -> float:
        return accuracy(job, evaluated, job.splits.validation)

    files = []
    for index, ratios in enumerate(runs):
        files.append(job.output / f'sensitivities_{index}.json')
        slim.prune.sensitivity(
            program, job.net.exe.place, names, evaluate, sensitivities_file=files[-1], pruned_ratios=ratios
        )
    return slim.prune.merge_sensitive([slim.prune.load_sensitivities(file) for file in files])


def export(job: Job, program: Any, label: str) -> slim.runtime.SavedModel:
    """Save the part of a program that leads from the image to the probabilities, and check the reloaded model."""
    return slim.runtime.save_inference_model(program, job.output / label, ['image'], [job.net.probabilities])


def to_lite(job: Job, program: Any, label: str) -> list[slim.deploy.LiteModel]:
    """Convert a program for Arm and x86; the x86 file is run and compared with the program on logits."""
    sample = {'image': job.splits.test.images[:16]}
    made = []
    for target in ('arm', 'x86') if job.lite is not None else ():
        file = job.output / f'{label}-{target}.nb'
        model = slim.deploy.to_lite(
            program, file, target, feeds=['image'], fetches=[job.net.logits], feed=sample, interpreter=job.lite.path
        )
        print(f'  {file.name}: {model.file_bytes:,} bytes, {len(model.kernels)} kernels, {parity(model)}')
        made.append(model)
    return made


def parity(model: slim.deploy.LiteModel) -> str:
    checked = model.verification
    return str(checked.figures) if checked is not None and checked.executed else 'structure verified, not executed'


def lite_table(job: Job, models: Sequence[slim.deploy.LiteModel]) -> ReportTable:
    rows = [[m.file.name, f'{m.file_bytes:,}', str(len(m.kernels)), parity(m)] for m in models]
    notes = list(dict.fromkeys(f'{m.target}: {text}' for m in models for text in m.warnings))
    if job.lite is None:
        notes = [f'left out: {job.lite_obstacle}']
    head = ['file', 'bytes', 'kernels', 'against the program, on logits']
    return ReportTable('Files of Paddle Lite', head, rows, notes=notes)


def figures(
    label: str, program: Any, correct: float, saved: slim.runtime.SavedModel | None, latency: Any
) -> ModelFigures:
    return ModelFigures(
        label,
        accuracy=correct,
        flops=slim.analysis.flops(program),
        params=slim.analysis.model_size(program),
        file_bytes=saved.file_bytes if saved else None,
        latency=latency,
    )


def main(arguments: Sequence[str] | None = None) -> Path:
    options = parse_arguments(arguments)
    paddle.enable_static()
    started = time.time()
    job = prepare(options)
    net, place, scope = job.net, job.net.exe.place, paddle.static.global_scope()
    ir = slim.GraphWrapper(net.train_program).ir
    print(f'Paddle {paddle.__version__}, {ir} programs; results in {job.output}')

    print('1. Train MobileNet on the digits, and export it')
    train(job, net.train_program, options.epochs, options.seed)
    before = accuracy(job, net.val_program, job.splits.test)
    print(f'  test accuracy {before:.4f}')
    dense, dense_lite = export(job, net.val_program, 'dense'), to_lite(job, net.val_program, 'dense')

    print('2. Measure the sensitivities of its pointwise convolutions, on the validation split')
    curves = sensitivities(job, options.params, options.ratio_runs)
    ratios = slim.prune.get_ratios_by_loss(curves, options.loss)
    slim.analysis.plot_sensitivities(curves, job.output / 'sensitivities.png', loss=options.loss)

    print(f'3. Prune both programs by the ratios that cost {options.loss:.0%} each')
    pruner = slim.prune.Pruner(round_to=options.round_to)
    pruned_train, _, _ = pruner.prune(
        net.train_program, scope, params=ratios.keys(), ratios=ratios.values(), place=place, verify=True
    )
    pruned_val, _, _ = slim.prune.Pruner().prune(
        net.val_program, scope, params=ratios.keys(), ratios=ratios.values(), place=place, only_graph=True
    )
    print('  ' + str(pruner.report).replace('\n', '\n  '))
    dropped = accuracy(job, pruned_val, job.splits.test)
    print(f'  test accuracy {dropped:.4f}')

    print('4. Fine-tune')
    train(job, pruned_train, options.tune_epochs, options.seed + 1)
    after = accuracy(job, pruned_val, job.splits.test)
    print(f'  test accuracy {after:.4f}')

    print('5. Export both models, convert them for Paddle Lite, and measure them: one thread, batch 1')
    pruned, pruned_lite = export(job, pruned_val, 'pruned'), to_lite(job, pruned_val, 'pruned')
    image = job.splits.test.images[:1]
    measured = slim.deploy.measure({'trained': job.output / 'dense', 'pruned': job.output / 'pruned'}, {'image': image})
    print('  ' + str(measured).replace('\n', '\n  '))
    latency = {label: measured.row(label, 'onednn').latency for label in ('trained', 'pruned')}

    models = [
        figures('trained', net.val_program, before, dense, latency['trained']),
        figures('pruned', pruned_val, dropped, None, None),
        figures('pruned and fine-tuned', pruned_val, after, pruned, latency['pruned']),
    ]
    equivalence = pruner.report.equivalence
    report = Report(
        'MobileNet on the digits, pruned by sensitivity',
        models=models,
        equivalence={
            'pruned against masked: largest absolute difference': equivalence.max_absolute,
            'pruned against masked: largest relative difference': equivalence.max_relative,
            'change of the outputs by masking, relative': equivalence.effect,
            'reloaded dense model against program, relative': dense.relative_difference,
            'reloaded pruned model against program, relative': pruned.relative_difference,
        },
        layers_before=slim.analysis.layer_costs(net.val_program),
        layers_after=slim.analysis.layer_costs(pruned_val),
        sensitivities=curves,
        loss=options.loss,
        ratios=ratios,
        tables=[lite_table(job, [*dense_lite, *pruned_lite]), measured.report_table()],
        notes=str(pruner.report).splitlines(),
        environment={
            'Paddle': f'{paddle.__version__}, {ir} programs',
            'Python': platform.python_version(),
            'MobileNet': f'scale {options.scale}, {options.epochs} + {options.tune_epochs} epochs, seed {options.seed}',
            'data': 'handwritten digits of scikit-learn at 28 x 28, 1197 / 300 / 300 for training, validation, test',
            'whole run': f'{time.time() - started:.0f} s',
        },
    )
    page = job.output / 'report.html'
    slim.analysis.write_report(page, report)
    first, last = models[0], models[-1]
    bytes_before, bytes_after = dense.file_bytes, pruned.file_bytes
    print(f'  FLOPs {first.flops:,} -> {last.flops:,}, parameters {first.params:,} -> {last.params:,}')
    print(f'  files {bytes_before:,} -> {bytes_after:,} bytes; accuracy {before:.4f} -> {dropped:.4f} -> {after:.4f}')
    print(f'Report in {page} ({time.time() - started:.0f} s)')
    return page


if __name__ == '__main__':
    main()
