"""Compress a network for digits by a configuration: half the multiply-accumulates, then integers; distilled throughout.

    python compress_digits.py
    python compress_digits.py --config my.yaml --seed 1 -o other

Trains the network with labels, lets the Compressor do what the YAML file says, and measures what it has written: the
accuracy of every file in every runtime of this machine, and its times. Ends with a report in HTML. Kill it at any
moment and start the same command again: it goes on, and ends with the same bits.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paddle

import paddleslim_ng as slim
from paddleslim_ng.analysis import ModelFigures, Report, ReportTable
from paddleslim_ng.compress import (
    CompressionResult,
    Compressor,
    JobFolder,
    TrainerOptions,
    job_record,
    load_config,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import quantized_digits as digits

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'compress' / 'digits.yaml'
DECISIVE = ('model', 'scale', 'image_size', 'steps', 'lr', 'seed', 'epochs')  # with other values it is another job
IMAGES = 16  # to measure times with


class Row(NamedTuple):
    """A saved model: its cost, and accuracies on the test part by runtime; None where one cannot run it here."""

    flops: int
    params: int
    file_bytes: int
    executor: float
    inference: float | None
    lite_x86: float | None


class Saved(NamedTuple):
    """A saved model, the network that it holds, and the kernels that it is for."""

    path: Path
    network: Any
    precision: str


class Compressed(NamedTuple):
    """What the job came to: the network in float, and what each strategy that writes files has written, by kind."""

    network: Any
    files: Mapping[str, Any]
    result: CompressionResult
    sensitivities: Mapping[str, Mapping[float, float]]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, default=CONFIG, help='of the Compressor (default: digits.yaml)')
    parser.add_argument('--epochs', type=int, help='of the Compressor, instead of those in the file')
    digits.add_flags(parser, 'ResNet18', 0.25, 'compressed')
    return parser.parse_args(arguments)


def train(net: digits.Network, part: Any, options: argparse.Namespace) -> None:
    """Train with labels, and save the original network; where that has been done, take the weights that are there."""
    start = options.output / 'start'
    if not (start / '__shapes__.json').is_file():
        digits.train_in_float(net, part, options)
        digits.save(net.model(), options.output / 'original')
        slim.prune.save_model(None, net.evaluation, start, scope=net.scope)
    slim.prune.load_model(None, net.evaluation, start, scope=net.scope)


def make_compressor(net: digits.Network, parts: Any, seed: int) -> Compressor:
    """Return a job on the trained network, which does not see the test part."""
    # Without the softmax that the network has beside its loss, so that files give logits.
    evaluation = slim.core.cut_program(net.evaluation, ['image', 'label'], [net.logits, net.loss])
    with paddle.static.program_guard(evaluation, paddle.static.Program()):
        top1 = paddle.static.accuracy(*(slim.core.lookup(evaluation, item) for item in (net.logits, 'label')))
    return Compressor(
        None,
        net.scope,
        net.program,
        slim.data.BatchReader(parts.train, digits.BATCH, shuffle=True, seed=seed, drop_last=True),
        [('image', 'image'), ('label', 'label')],
        [('loss', net.loss)],
        evaluation,
        slim.data.BatchReader(parts.validation, 100),
        eval_fetch_list=[('top1', top1)],
        options=TrainerOptions(monitor='top1'),
        seed=seed,
    )


def compress(net: digits.Network, parts: Any, config: Any, options: argparse.Namespace) -> Compressed:
    """Run the job of a configuration, or go on with it; its files lie in the output folder."""
    compressor = make_compressor(net, parts, options.seed).config(config)
    compressor.epoch = compressor.epoch if options.epochs is None else options.epochs
    result = compressor.run()
    files: dict[str, Any] = {}
    sensitivities: dict[str, Any] = {}
    for strategy in compressor.strategies.values():
        files.update(getattr(strategy, 'models', None) or {})
        sensitivities.update(getattr(strategy, 'sensitivities', {}))
    network = net._replace(evaluation=result.float_program())
    if 'float' not in files:
        files['float'] = digits.save(network.model(), options.output / 'float')
    return Compressed(network.evaluation, files, result, sensitivities)


def saved_models(net: digits.Network, made: Compressed, folder: Path) -> dict[str, Saved]:
    found = {'original': Saved(folder / 'original', net.evaluation, 'fp32')}
    found['compressed'] = Saved(made.files['float'].program_file.with_suffix(''), made.network, 'fp32')
    for kind in ('int8', 'inference'):
        if kind in made.files:
            found['int8'] = Saved(made.files[kind].prefix, made.network, 'int8')
    return found


def evaluate(saved: Saved, part: Any, engines: Sequence[str]) -> Row:
    """Measure what a saved model takes, and its accuracy in Paddle's executor and on the engines."""
    path, network, precision = saved
    native = 'int8' if precision == 'int8' else 'onednn'
    return Row(
        slim.analysis.flops(network),
        slim.analysis.model_size(network),
        sum(file.stat().st_size for file in digits.files_of(path)),
        digits.accuracy(digits.reloaded(path), part),
        digits.in_inference(path, part, precision) if native in engines else None,
        digits.in_lite(path, part, precision) if 'lite_x86' in engines else None,
    )


def shown(row: Row) -> list[str]:
    accuracies = ['-' if value is None else f'{value:.4f}' for value in row[3:]]
    return [f'{row.flops:,}', f'{row.params:,}', f'{row.file_bytes:,}', *accuracies]


def accuracy_table(rows: Mapping[str, Row]) -> ReportTable:
    head = ['model', 'MACs', 'parameters', 'bytes', "Paddle's executor", 'Paddle Inference', 'Lite x86']
    text = 'Accuracy of the files on the test part: int8 is simulated in the executor, and computed by the others.'
    return ReportTable('Models', head, [[name, *shown(row)] for name, row in rows.items()], text)


def show(table: ReportTable) -> None:
    print(table.text)
    lines = [list(table.head), *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]
    for name, *cells in lines:
        print('  '.join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:]))]))


def log_progress() -> None:
    """Let the Compressor tell what it does; some builds of Paddle have a handler that would add places and times."""
    log = logging.getLogger('paddleslim_ng')
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(logging.StreamHandler(sys.stdout))


def write_page(
    net: digits.Network, made: Compressed, rows: Mapping[str, Row], measured: Any, options: argparse.Namespace
) -> Path:
    figures = [ModelFigures(name, row.executor, row.flops, row.params, row.file_bytes) for name, row in rows.items()]
    report = Report(
        f'{options.model} on the digits, compressed',
        models=figures,
        layers_before=slim.analysis.layer_costs(net.evaluation),
        layers_after=slim.analysis.layer_costs(made.network),
        sensitivities=made.sensitivities,
        tables=[accuracy_table(rows), *made.result.report_tables(), measured.report_table()],
        notes=[line for files in made.files.values() for line in str(files).splitlines()],
        environment={'Paddle': paddle.__version__, 'Python': platform.python_version(), 'seed': str(options.seed)},
    )
    page = options.output / 'report.html'
    slim.analysis.write_report(page, report)
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    options, started = parse_arguments(arguments), time.monotonic()
    log_progress()
    config, folder = load_config(options.config), JobFolder(options.output)
    record = job_record(config, **{name: getattr(options, name) for name in DECISIVE})
    folder.require(record)
    parts = digits.begin(options)
    folder.claim(record)

    net = digits.build(options)
    train(net, parts.train, options)
    made = compress(net, parts, folder.config_within(config), options)
    print(made.result.table())
    for files in made.files.values():
        print(files)

    saved = saved_models(net, made, options.output)
    engines = options.engines or list(slim.deploy.ENGINES)
    rows = {name: evaluate(one, parts.test, engines) for name, one in saved.items()}
    paths = {name: one.path for name, one in saved.items()}
    feed = {'image': parts.train.images[:IMAGES]}
    measured = slim.deploy.measure(paths, feed, engines=engines, repeats=options.repeats)
    print(measured)
    show(accuracy_table(rows))
    digits.write_figures(rows, options)
    page = write_page(net, made, rows, measured, options)
    gone = 1 - rows['compressed'].flops / rows['original'].flops
    print(f'{gone:.1%} of the multiply-accumulates are gone. Report in {page} ({time.monotonic() - started:.0f} s)')


if __name__ == '__main__':
    try:
        main()
    except slim.SlimError as error:
        raise SystemExit(f'error: {error}') from error
