"""Accuracy and sparsity of a network that train.py has saved.

python evaluate.py --pruned_model models/
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddle
from tasks import MODEL, accuracy, add_flags, load

import paddleslim_ng as slim
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune import UnstructuredPruner


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument(
        '--pruned_model', type=Path, default=Path('models'), help='folder of train.py, or an inference model'
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    paddle.enable_static()
    if options.use_gpu and not paddle.is_compiled_with_cuda():
        raise ConfigError('this Paddle was built without CUDA: leave --use_gpu out')
    exe = slim.Executor(paddle.static.cuda_places()[0] if options.use_gpu else paddle.CPUPlace())
    path = options.pruned_model
    model = slim.runtime.load_inference_model(path / MODEL if path.is_dir() else path, executor=exe)
    test = load(options, training=False)[2]

    def scores(feed: Any) -> Any:
        images = {model.feeds[0]: feed['image']}
        return exe.run(model.program, feed=images, fetch_list=model.fetches, scope=model.scope)[0]

    top1, top5 = accuracy(scores, test, options.batch_size)
    print(f'accuracy on {len(test)} test images: top-1 {top1:.4f}, top-5 {top5:.4f}')
    print(f'zeros among all parameters: {UnstructuredPruner.total_sparse(model.program, model.scope):.4%}')
    print(f'zeros in 1x1 convolutions: {UnstructuredPruner.total_sparse_conv1x1(model.program, model.scope):.4%}')


if __name__ == '__main__':
    try:
        main()
    except slim.SlimError as error:
        raise SystemExit(f'error: {error}') from error
