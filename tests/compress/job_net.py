"""A tiny network with a job around it: programs, data, and strategies that write down what they are called with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.compress import Compressor, Context, Strategy
from paddleslim_ng.core import Executor, GraphWrapper, clone_program, has_array, load_array
from paddleslim_ng.distributed import Ranks

ALONE = Ranks(0, 1)
FEEDS = [('image', 'x'), ('label', 'y')]


class JobNet:
    """Two convolutions and a classifier on images of 6x6, with dropout, Adam and a schedule."""

    def __init__(self, optimizer: Any = None, minimize: bool = True, seed: int = 3, width: int = 16) -> None:
        self.main, self.startup = paddle.static.Program(), paddle.static.Program()
        self.scope = paddle.static.Scope()
        self.exe = Executor()
        paddle.seed(seed)
        with paddle.static.program_guard(self.main, self.startup), paddle.utils.unique_name.guard():
            x = paddle.static.data('x', [-1, 2, 6, 6], 'float32')
            y = paddle.static.data('y', [-1, 1], 'int64')
            h = nn.Conv2D(2, width, 3, padding=1, weight_attr=_named('conv1'), bias_attr=False)(x)
            h = F.relu(nn.BatchNorm2D(width)(h))
            h = F.relu(nn.Conv2D(width, 16, 3, weight_attr=_named('conv2'), bias_attr=_named('bias'))(h))
            h = F.dropout(paddle.flatten(F.adaptive_avg_pool2d(h, 1), 1), 0.1)
            logits = nn.Linear(16, 4, weight_attr=_named('fc'))(h)
            self.loss = F.cross_entropy(logits, y)
            self.accuracy = paddle.static.accuracy(F.softmax(logits), y)
            graph = GraphWrapper(self.main)
            self.loss_name, self.accuracy_name = graph.var(self.loss).name(), graph.var(self.accuracy).name()
            self.test = clone_program(self.main, for_test=True)
            if minimize:
                (optimizer or adam()).minimize(self.loss)
        self.exe.run(self.startup, scope=self.scope)

    def compressor(self, **options: Any) -> Compressor:
        """Return a compressor of this network; keyword arguments replace what is given here."""
        given: dict[str, Any] = {
            'train_program': self.main,
            'train_reader': batches,
            'train_feed_list': FEEDS,
            'train_fetch_list': [('loss', self.loss_name)],
            'eval_program': self.test,
            'eval_reader': lambda: batches(4, 9),
            'eval_fetch_list': [('acc', self.accuracy_name), ('loss', self.loss_name)],
            'scope': self.scope,
            'ranks': ALONE,
        }
        return Compressor(**{**given, **options})

    def value(self, name: str) -> npt.NDArray[Any]:
        return load_array(self.scope, name)


def adam() -> Any:
    return paddle.optimizer.Adam(paddle.optimizer.lr.StepDecay(0.01, step_size=2))


def _named(name: str) -> Any:
    return paddle.ParamAttr(name=name)


def batches(count: int = 5, seed: int = 0, size: int = 8) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    """Yield batches whose label shows in the image; the last is ragged."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        number = size if index < count - 1 else size - 3
        label = rng.integers(0, 4, (number, 1))
        image = rng.standard_normal((number, 2, 6, 6)) + label[:, :, None, None]
        yield image.astype('float32'), label


def tensors(program: Any, scope: Any) -> dict[str, npt.NDArray[Any]]:
    """Return all persistable tensors of a program."""
    names = [var.name() for var in GraphWrapper(program).vars() if var.persistable()]
    return {name: load_array(scope, name) for name in names if has_array(scope, name)}


def same(left: dict[str, npt.NDArray[Any]], right: dict[str, npt.NDArray[Any]]) -> None:
    assert set(left) == set(right), set(left) ^ set(right)
    different = [name for name, value in left.items() if value.tobytes() != right[name].tobytes()]
    assert not different, different


class Recorder(Strategy):
    """Writes down every callback, with the number of evaluations and of checkpoints at that time."""

    def __init__(self, calls: list[Any], start_epoch: int = 0, end_epoch: int = 0, folder: Any = None) -> None:
        super().__init__(start_epoch, end_epoch)
        self.calls, self.folder = calls, folder

    def _note(self, what: str, context: Context) -> None:
        files = sorted(path.name for path in self.folder.glob('step-*')) if self.folder is not None else []
        newest = int(files[-1][5:15]) if files else 0
        self.calls.append(
            (self.name, what, context.epoch_id, context.batch_id, len(context.eval_results.get('acc', [])), newest)
        )

    def on_compression_begin(self, context: Context) -> None:
        self._note('compression_begin', context)

    def on_epoch_begin(self, context: Context) -> None:
        self._note('epoch_begin', context)

    def on_batch_begin(self, context: Context) -> None:
        self._note('batch_begin', context)

    def on_batch_end(self, context: Context) -> None:
        self._note('batch_end', context)

    def on_epoch_end(self, context: Context) -> None:
        self._note('epoch_end', context)

    def on_compression_end(self, context: Context) -> None:
        self._note('compression_end', context)
