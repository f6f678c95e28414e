"""Quantize a table of embeddings: train a classifier whose parameters are nearly all in one, and make the table small.

    python quant_embedding.py
    python quant_embedding.py --bits 2 --quantize_type row_wise codebook

The handwritten digits become bags of words: each of the 64 pixels is one word out of 64 x 17, its place and its
brightness. The class scores are a linear function of the mean of their embeddings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

import paddleslim_ng as slim
from paddleslim_ng.runtime import InferenceModel

LEVELS = 17  # of brightness, 0 to 16
BATCH = 64


class Row(NamedTuple):
    """One form of the table: accuracy on the test part, and size of the saved model."""

    test: float
    file_bytes: int


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--quantize_type',
        nargs='+',
        default=list(slim.quant.EMBEDDING_TYPES),
        metavar='NAME',
        help=f'of {", ".join(slim.quant.EMBEDDING_TYPES)} (default: all)',
    )
    parser.add_argument('--bits', type=int, nargs='+', default=[8, 4, 2], metavar='N', help='2 to 8 (default: 8 4 2)')
    parser.add_argument('--width', type=int, default=32, help='of the embeddings (default: 32)')
    parser.add_argument('--steps', type=int, default=400, help='of training, 64 images each (default: 400)')
    parser.add_argument('--seed', type=int, default=0, help='of weights and orders (default: 0)')
    parser.add_argument('--output', type=Path, default=Path('embedded'), help='folder of the results')
    return parser.parse_args(arguments)


def words(part: Any) -> tuple[Any, Any]:
    """Return [N, 64] words and [N, 1] labels."""
    brightness = np.rint((part.images.reshape(len(part), -1) + 1) * (LEVELS - 1) / 2).astype('int64')
    return brightness + np.arange(brightness.shape[1]) * LEVELS, np.asarray(part.labels).reshape(-1, 1)


def train(options: argparse.Namespace, ids: Any, labels: Any) -> InferenceModel:
    """Train, and return the part that reads words and gives class scores."""
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    main.random_seed = startup.random_seed = options.seed + 1  # to Paddle, 0 is no seed
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        read = paddle.static.data('words', [None, ids.shape[1]], 'int64')
        label = paddle.static.data('label', [None, 1], 'int64')
        table = nn.Embedding(ids.shape[1] * LEVELS, options.width, weight_attr=paddle.ParamAttr(name='table'))
        logits = nn.Linear(options.width, 10)(paddle.mean(table(read), axis=1))
        evaluation = slim.core.cut_program(slim.core.clone_program(main, for_test=True), ['words'], [logits])
        paddle.optimizer.Adam(0.02).minimize(functional.cross_entropy(logits, label))
    executor, random = slim.Executor(), np.random.default_rng(options.seed)
    executor.run(startup, scope=scope)
    for _ in range(options.steps):
        rows = random.choice(len(ids), BATCH, replace=False)
        executor.run(main, {'words': ids[rows], 'label': labels[rows]}, scope=scope)
    return InferenceModel(evaluation, ['words'], [slim.core.lookup(evaluation, logits)], scope)


def saved(model: InferenceModel, path: Path, ids: Any, labels: Any) -> Row:
    """Save a model, load it again, and measure what was loaded."""
    program, feeds, fetches, scope = model
    files = slim.runtime.save_inference_model(program, path, feeds, fetches, scope, feed={'words': ids[:BATCH]})
    again = slim.runtime.load_inference_model(path, paddle.static.Scope())
    (scores,) = slim.Executor().run(again.program, {again.feeds[0]: ids}, again.fetches, scope=again.scope)
    return Row(float((scores.argmax(axis=1) == labels[:, 0]).mean()), files.file_bytes)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    paddle.enable_static()
    options.output.mkdir(parents=True, exist_ok=True)
    ir = 'PIR' if paddle.framework.in_pir_mode() else 'legacy'
    print(f'Paddle {paddle.__version__}, {ir} programs; seed {options.seed}')
    parts = slim.data.digits(8, sizes=(1297, 0, 500))
    model = train(options, *words(parts.train))
    test = words(parts.test)
    rows = {'float': saved(model, options.output / 'float', *test)}
    for bits in options.bits:
        for kind in options.quantize_type:
            config = {'quantize_type': kind, 'quantize_bits': bits}
            # The float table stays for the next one; leave keep_float out where memory is what matters.
            small = slim.quant.quant_embedding(model.program, paddle.CPUPlace(), config, model.scope, keep_float=True)
            fetches = [slim.core.lookup(small, fetch) for fetch in model.fetches]
            path = options.output / f'{kind}-{bits}'
            rows[path.name] = saved(InferenceModel(small, model.feeds, fetches, model.scope), path, *test)
    for name, row in rows.items():
        print(f'{name:<12} accuracy {row.test:.4f}, {row.file_bytes:>9,} bytes')
    figures = {name: row._asdict() for name, row in rows.items()}
    slim.runtime.atomic_write(options.output / 'figures.json', json.dumps(figures, indent=1) + '\n')


if __name__ == '__main__':
    try:
        main()
    except slim.SlimError as error:
        raise SystemExit(f'error: {error}') from error
