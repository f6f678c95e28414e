"""The order of a job, its ends, its errors, and what users may give it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import Compressor, Context, Strategy, TrainerOptions
from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from tests.compress.job_net import FEEDS, JobNet, Recorder, adam, batches, same, tensors


def test_the_order_of_callbacks_evaluation_and_checkpoint(tmp_path: Path) -> None:
    calls: list[Any] = []
    net = JobNet()
    compressor = net.compressor(train_reader=lambda: batches(2), checkpoint_path=tmp_path, epoch=1)
    compressor.add_strategy(Recorder(calls, 0, 2, tmp_path), 'first')
    compressor.add_strategy(Recorder(calls, 5, 0, tmp_path), 'second')
    result = compressor.run()
    both = ('first', 'second')
    expected = [(name, 'compression_begin', 0, 0, 0, 0) for name in both]
    for epoch in range(2):
        expected += [(name, 'epoch_begin', epoch, 0, epoch, 1 + epoch) for name in both]
        for batch in range(2):
            for what in ('batch_begin', 'batch_end'):
                expected += [(name, what, epoch, batch, epoch, 1 + epoch) for name in both]
        expected += [(name, 'epoch_end', epoch, 1, epoch + 1, 1 + epoch) for name in both]
    expected += [(name, 'compression_end', 1, 1, 2, 3) for name in both]
    assert calls == expected
    assert len(result.records) == 2 and result.metrics['acc'] == result.records[1].metrics['acc']
    assert 'conv' not in repr(result)  # no dump of programs


def test_training_is_that_of_a_plain_loop() -> None:
    """The compressor without strategies trains as a loop over the same batches does, and touches no program."""
    net, plain = JobNet(), JobNet()
    before = [(op.type(), len(op.all_inputs())) for op in GraphWrapper(net.main).ops()]
    paddle.seed(5)
    result = net.compressor(epoch=3).run()
    paddle.seed(5)
    for _ in range(3):
        for image, label in batches():
            plain.exe.run(plain.main, feed={'x': image, 'y': label}, scope=plain.scope)
        plain.main.lr_scheduler.step()
        # The compressor evaluates in between, which draws nothing.
    same(tensors(result.train_program, net.scope), tensors(plain.main, plain.scope))
    assert [(op.type(), len(op.all_inputs())) for op in GraphWrapper(net.main).ops()] == before
    assert result.train_program is not net.main and result.records[2].learning_rate == pytest.approx(0.001)


class ScheduledAdam(paddle.optimizer.Adam):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(paddle.optimizer.lr.StepDecay(0.01, step_size=2))


def test_evaluation_trains_nothing() -> None:
    """Neither by an optimizer nor by batch norms, where somebody gives the training program for evaluation."""
    net = JobNet()
    context = net.compressor(eval_program=net.main).context
    before = tensors(net.main, net.scope)
    results = context.run_eval_graph().as_dict()
    same(tensors(net.main, net.scope), before)
    assert results == JobNet().compressor().context.run_eval_graph().as_dict()


@pytest.mark.parametrize('given', ['factory', 'class', 'object'])
def test_the_train_optimizer_serves_a_program_without_one(given: str) -> None:
    net, plain = JobNet(minimize=False), JobNet()
    paddle.seed(5)
    optimizer = {'factory': adam, 'class': ScheduledAdam, 'object': adam()}[given]
    result = net.compressor(epoch=2, train_optimizer=optimizer).run()
    paddle.seed(5)
    plain.compressor(epoch=2).run()
    for name in ('conv1', 'conv2', 'fc'):
        np.testing.assert_array_equal(net.value(name), plain.value(name))
    assert 'compress0_conv1_moment1_0' in tensors(result.train_program, net.scope)
    if given == 'object':
        assert not optimizer._accumulators and optimizer._learning_rate.last_epoch == 0


class Samples(paddle.io.Dataset):  # type: ignore[misc]
    def __init__(self) -> None:
        self.rows = [(image[i], label[i]) for image, label in batches() for i in range(len(image))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


class Iterable:
    def __iter__(self) -> Iterator[Any]:
        return batches()


def _readers() -> dict[str, Any]:
    flat = [(image[i].reshape(-1), int(label[i, 0])) for image, label in batches() for i in range(len(image))]
    samples = [flat[start : start + 8] for start in range(0, len(flat), 8)]
    return {
        'function': batches,
        'list': list(batches()),
        'iterable': Iterable(),
        'mappings': lambda: ({'image': image, 'label': label} for image, label in batches()),
        'samples': lambda: iter(samples),
        'loader': paddle.io.DataLoader(Samples(), batch_size=8, places=paddle.CPUPlace(), return_list=True),
    }


def _trained(kind: str) -> Any:
    net = JobNet()
    paddle.seed(2)
    net.compressor(train_reader=_readers()[kind], eval_reader=None, epoch=2).run()
    return net.value('conv2')


@pytest.fixture(scope='module')
def by_function() -> Any:
    paddle.enable_static()
    return _trained('function')


@pytest.mark.parametrize('kind', ['list', 'iterable', 'mappings', 'samples', 'loader'])
def test_readers_of_every_kind_train_alike(kind: str, by_function: Any) -> None:
    np.testing.assert_array_equal(_trained(kind), by_function)


def test_a_strategy_that_raises_ends_the_job(tmp_path: Path) -> None:
    class Failing(Strategy):
        def on_batch_end(self, context: Context) -> None:
            if (context.epoch_id, context.batch_id) == (1, 2):
                raise ZeroDivisionError('of the strategy')

    compressor = JobNet().compressor(checkpoint_path=tmp_path, epoch=3)
    compressor.add_strategy(Failing())
    with pytest.raises(ZeroDivisionError, match='of the strategy'):
        compressor.run()
    assert len(list(tmp_path.glob('step-*'))) == 2


def _raising() -> Iterator[Any]:
    for index, batch in enumerate(batches()):
        if index == 2:
            raise OSError('the disk is gone')
        yield batch


def _short() -> Iterator[Any]:
    for image, label in batches():
        yield image[:, :1], label


def _channels_last() -> Iterator[Any]:
    for image, label in batches():
        yield image.transpose(0, 2, 3, 1), label


def _samples_channels_last() -> Iterator[Any]:
    for image, label in _channels_last():
        yield list(zip(image, label))


def _nan() -> Iterator[Any]:
    for image, label in batches():
        yield image * np.nan, label


@pytest.mark.parametrize(
    ('reader', 'message'),
    [
        (lambda: iter(()), 'train_reader is empty'),
        ([], 'train_reader is empty'),
        (_raising, 'train_reader failed at batch 3: OSError: the disk is gone'),
        (_short, "batch 1 of train_reader: input 'x' wants shape"),
        (_channels_last, "batch 1 of train_reader: input 'x' wants shape"),
        (_samples_channels_last, "batch 1 of train_reader: input 'x' wants shape"),
        (_nan, "batch 1 of train_reader: input 'x' holds NaN"),
        (lambda: ((image,) for image, _ in batches()), 'batch 1 of train_reader: .*columns'),
        (lambda: ((image[0], int(label[0, 0])) for image, label in batches()), 'these are samples, and not'),
    ],
    ids=['empty', 'empty list', 'raises', 'shape', 'layout', 'layout of samples', 'nan', 'fields', 'samples'],
)
def test_readers_that_fail(tmp_path: Path, reader: Any, message: str) -> None:
    compressor = JobNet().compressor(train_reader=reader, checkpoint_path=tmp_path, epoch=2)
    with pytest.raises(DataError, match=message):
        compressor.run()
    assert len(list(tmp_path.glob('step-*'))) == 1


def test_a_reader_of_evaluation_that_is_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='eval_reader is empty'):
        JobNet().compressor(eval_reader=[], checkpoint_path=tmp_path, epoch=1).run()


def test_generators_give_one_epoch() -> None:
    with pytest.raises(ConfigError, match='train_reader is a generator'):
        JobNet().compressor(train_reader=batches(), epoch=2).run()
    with pytest.raises(ConfigError, match='eval_reader is a generator'):
        JobNet().compressor(eval_reader=batches())
    assert len(JobNet().compressor(train_reader=batches(), epoch=1).run().records) == 1


def test_a_metric_that_is_nan_ends_the_job(tmp_path: Path) -> None:
    values = iter([0.5, float('nan')])
    compressor = JobNet().compressor(
        eval_reader=None, eval_func={'f1': lambda program, scope: next(values)}, checkpoint_path=tmp_path, epoch=3
    )
    with pytest.raises(DataError, match='evaluation of epoch 1: f1 is nan'):
        compressor.run()
    assert len(list(tmp_path.glob('step-*'))) == 2


def test_arguments_that_do_not_fit() -> None:
    net = JobNet(minimize=False)
    for options, error, message in (
        ({'train_fetch_list': ['nowhere']}, GraphError, 'nowhere'),
        ({'train_feed_list': [('image', 'x'), ('image', 'y')]}, ConfigError, "names \\['image'\\] twice"),
        ({'train_reader': 3}, ConfigError, 'train_reader is a reader function'),
        ({'train_reader': np.zeros([8, 2, 6, 6])}, ConfigError, 'BatchReader'),
        ({'epoch': -1}, ConfigError, 'epoch is a whole number'),
        ({'checkpoint_every': 0}, ConfigError, 'checkpoint_every'),
        ({'train_optimizer': 'sgd'}, ConfigError, 'train_optimizer is an optimizer'),
        ({'eval_func': {'acc': 3}}, ConfigError, "eval_func 'acc'"),
        ({'trainer': 3}, ConfigError, 'trainer is a class'),
        ({'train_optimizer': adam, 'clip': 1.0}, ConfigError, 'clip is one of'),
        ({'train_program': None}, ConfigError, 'train_program is missing'),
    ):
        with pytest.raises(error, match=message):
            net.compressor(**options)
    for options, message in (
        ({}, 'train_program has no optimizer'),
        ({'scope': paddle.static.Scope(), 'train_optimizer': adam}, 'no values of .* parameters.*run the startup'),
        ({'trainer': lambda context, options: None, 'train_optimizer': adam}, 'which is no slim.compress.Trainer'),
        ({'train_optimizer': adam, 'train_fetch_list': [('loss', 'x')]}, "'x' has the shape .*: minimize one number"),
        ({'train_optimizer': adam, 'loss': 'lost'}, "no 'lost'.*it has \\['loss'\\]"),
        ({'train_reader': None, 'train_optimizer': adam}, 'there is no train_reader'),
    ):
        with pytest.raises(ConfigError, match=message):
            net.compressor(epoch=1, **options).run()
    with pytest.raises(ConfigError, match='nothing to do'):
        net.compressor(train_optimizer=adam).run()
    with pytest.raises(ConfigError, match='clip would change nothing: the job makes no optimizer'):
        JobNet().compressor(clip=paddle.nn.ClipGradByNorm(1.0), epoch=1).run()
    used = adam()
    JobNet(used)
    with pytest.raises(ConfigError, match='has minimized a program already'):
        net.compressor(train_optimizer=used)


def test_strategies_have_names_of_their_own() -> None:
    compressor = JobNet().compressor()
    first, second = compressor.add_strategy(Strategy()), compressor.add_strategy(Strategy())
    assert (first.name, second.name) == ('Strategy', 'Strategy_2')
    with pytest.raises(ConfigError, match="a strategy 'Strategy' already"):
        compressor.add_strategy(Strategy(), 'Strategy')
    with pytest.raises(ConfigError, match='instance of'):
        compressor.add_strategy(Strategy)  # type: ignore[arg-type]
    for start, end in ((3, 2), (-1, 0), (0, 1.5), (2, 2)):
        with pytest.raises(ConfigError):
            Strategy(start, end)  # type: ignore[arg-type]
    assert [Strategy(2, 0).is_active(epoch) for epoch in (1, 2, 9)] == [False, True, True]
    assert [Strategy(1, 3).is_active(epoch) for epoch in range(4)] == [False, True, True, False]


def test_a_job_without_epochs_still_calls_strategies() -> None:
    calls: list[Any] = []
    compressor = JobNet(minimize=False).compressor(train_reader=None)
    compressor.add_strategy(Recorder(calls))
    assert compressor.run().records == []
    assert [call[1] for call in calls] == ['compression_begin', 'compression_end']
    with pytest.raises(ConfigError, match='this job has run'):
        compressor.run()
    with pytest.raises(ConfigError, match='this job has run'):
        compressor.add_strategy(Strategy())
    other = JobNet(minimize=False).compressor(train_reader=None)
    other.add_strategy(compressor.strategies['Recorder'], 'again')
    with pytest.raises(ConfigError, match='has run in another job'):
        other.run()


def test_an_evaluation_program_is_made_where_none_is_given() -> None:
    net = JobNet()
    compressor = Compressor(
        None, net.scope, net.main, batches, FEEDS, [('loss', net.loss), ('acc', net.accuracy)], eval_reader=batches,
        epoch=1, ranks=net.compressor().context.ranks,
    )  # fmt: skip
    assert set(compressor.run().metrics) == {'loss', 'acc'}


def test_skipping_training(tmp_path: Path) -> None:
    class Skipping(Strategy):
        def on_epoch_begin(self, context: Context) -> None:
            context.skip_training = context.epoch_id == 1

    net = JobNet()
    compressor = net.compressor(epoch=3, options=TrainerOptions(metrics_file=tmp_path / 'log.jsonl'))
    compressor.add_strategy(Skipping())
    assert [record.samples for record in compressor.run().records] == [37, 0, 37]
