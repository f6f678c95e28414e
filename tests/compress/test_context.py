"""What strategies see: metrics weighted by samples, samples that stay the same, history, rebuilt programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import Budget, Context, Strategy
from paddleslim_ng.core import clone_program
from paddleslim_ng.errors import CheckpointError, ConfigError, DataError, GraphError, UnsupportedOpError
from tests.compress.job_net import JobNet, adam, batches, tensors

CLIP = paddle.nn.ClipGradByNorm


def _context(net: JobNet | None = None, **options: Any) -> Context:
    return (net if net is not None else JobNet()).compressor(**options).context


def _means(net: JobNet, chosen: Any) -> list[float]:
    """Work the metrics out over all samples at once."""
    images, labels = (np.concatenate(column) for column in zip(*chosen))
    targets = [net.accuracy_name, net.loss_name]
    feed = {'x': images, 'y': labels}
    return [float(v.mean()) for v in net.exe.run(net.test, feed=feed, fetch_list=targets, scope=net.scope)]


def test_means_are_weighted_by_the_sizes_of_batches() -> None:
    net = JobNet()
    results, names = _context(net).run_eval_graph()
    assert names == ['acc', 'loss']
    np.testing.assert_allclose(results, _means(net, batches(4, 9)), rtol=1e-6)
    plain = np.mean([_means(net, [batch])[1] for batch in batches(4, 9)])
    assert abs(plain - results[1]) > 1e-4  # the last batch is smaller


class Counting:
    def __init__(self) -> None:
        self.opened = 0

    def __call__(self) -> Iterator[Any]:
        self.opened += 1
        return batches(12, 4)


@pytest.mark.parametrize('in_files', [False, True])
def test_the_same_cached_id_gives_the_same_sample(tmp_path: Path, in_files: bool) -> None:
    net, reader = JobNet(), Counting()
    folder = tmp_path / 'samples' if in_files else None
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    context = _context(net, eval_reader=reader, cache_path=folder)
    first = context.run_eval_graph(0.4, cached_id=3)
    assert context.run_eval_graph(0.4, cached_id=3) == first and reader.opened == 1
    assert context.run_eval_graph(0.4, cached_id=4) != first and reader.opened == 2
    draws = np.random.default_rng(3)
    chosen = [batch for index, batch in enumerate(batches(12, 4)) if draws.random() < 0.4 or index == 0]
    np.testing.assert_allclose(first.results, _means(net, chosen), rtol=1e-6)
    other = _context(net, eval_reader=reader, cache_path=folder)
    assert other.run_eval_graph(0.4, cached_id=3) == first
    assert reader.opened == (2 if in_files else 3)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002  # no global seed
    for rate, cached_id in ((0, 0), (1.5, 0), (0.5, -1)):
        with pytest.raises(ConfigError):
            context.run_eval_graph(rate, cached_id)


def test_samples_of_other_inputs_are_refused(tmp_path: Path) -> None:
    context = _context(cache_path=tmp_path)
    context.run_eval_graph(0.5)
    (file,) = tmp_path.glob('sample-0-0.5.npz')
    other = _context(cache_path=tmp_path, eval_feed_list=['y', 'x'])
    with pytest.raises(DataError, match='was sampled for the inputs'):
        other.run_eval_graph(0.5)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match='damaged'):
        _context(cache_path=tmp_path).run_eval_graph(0.5)


def test_functions_evaluate_beside_the_reader_or_instead_of_it() -> None:
    net = JobNet()

    def several(program: Any, scope: Any) -> dict[str, Any]:
        assert program is context.eval_program and scope is net.scope
        return {'recall': np.float32(0.25), 'precision': np.array([0.5])}

    context = _context(net, eval_func={'pair': several, 'one': lambda program, scope: 1})
    assert context.run_eval_graph().names == ['acc', 'loss', 'recall', 'precision', 'one']
    assert context.run_eval_graph(0.5).metric('recall') == 0.25
    context = _context(net, eval_reader=None, eval_func=several)
    assert context.run_eval_graph().as_dict() == {'recall': 0.25, 'precision': 0.5}
    with pytest.raises(ConfigError, match="no metric 'recal'.*did you mean 'recall'"):
        context.run_eval_graph().metric('recal')
    context = _context(net, eval_reader=None)
    with pytest.raises(ConfigError, match='nothing evaluates'):
        context.run_eval_graph()
    context = _context(net, eval_reader=None, eval_func=lambda program, scope: 'good')
    with pytest.raises(DataError, match='which is no number'):
        context.run_eval_graph()


@pytest.mark.parametrize(
    ('history', 'delta', 'expected'),
    [
        ([], 0.001, False),
        ([0.5], 0.001, False),
        ([0.5, 0.5004], 0.001, True),
        ([0.5, 0.5006], 0.001, False),
        ([0.1, 0.5, 0.501], 0.01, True),
        ([-2.0, -2.001], 0.001, True),
        ([0.5, 0.0], 0.001, False),
    ],
)
def test_convergence(history: list[float], delta: float, expected: bool) -> None:
    context = _context()
    context.eval_results = {'acc': history} if history else {}
    assert context.eval_converged('acc', delta) is expected


@pytest.mark.parametrize('history', [[0.0, 0.5], [0.0, 0.0], [0.5, math.nan], [math.nan, 0.5], [0.5, math.inf]])
def test_convergence_that_cannot_be_told(history: list[float]) -> None:
    context = _context()
    context.eval_results = {'acc': history}
    with pytest.raises(DataError, match="whether 'acc' has converged cannot be told"):
        context.eval_converged('acc')
    with pytest.raises(ConfigError, match="no metric 'ac'.*did you mean 'acc'"):
        context.eval_converged('ac')


def test_values_that_strategies_leave() -> None:
    context = _context()
    context.put('best', {'ratio': 0.5})
    context.put('object', context, keep=False)
    assert context.get('best') == {'ratio': 0.5} and context.get('object') is context
    assert context.get('none') is None and context.get('none', 3) == 3
    assert context.state_dict()['kept'] == {'best': {'ratio': 0.5}}
    context.put('best', 1, keep=False)
    assert context.get('best') == 1 and context.state_dict()['kept'] == {}


def test_programs_are_replaced_together_or_not_at_all() -> None:
    net = JobNet()
    context = _context(net)
    train = clone_program(net.main)
    evaluated, empty = context.eval_program, paddle.static.Program()
    strategy = Strategy()
    strategy.name = 'mine'
    with pytest.raises(GraphError):
        context.replace_programs(strategy, train, empty)
    assert context.train_program is net.main and context.journal == [] and context.generation == 0
    context.replace_programs(strategy, train, train_fetch_list=[('total', net.loss), 'x'], note={'a': 1})
    assert context.train_program is train and context.eval_program is evaluated
    assert context.train_fetch_list == [('total', net.loss_name), ('x', 'x')]
    entry = context.journal[0]
    assert (entry.strategy, entry.epoch_id, entry.note, context.generation) == ('mine', 0, {'a': 1}, 1)


def test_a_rebuilt_program_trains_from_the_present_parameters() -> None:
    net = JobNet()
    context = _context(net, train_optimizer=lambda: paddle.optimizer.SGD(0.5))
    before = net.value('conv2')
    program = context.forward_program()
    assert getattr(program, 'lr_scheduler', None) is None
    context.minimize(program)
    assert np.array_equal(net.value('conv2'), before)
    image, label = next(batches())
    feed = {'x': image, 'y': label}
    context.executor.run(program, feed=feed, scope=net.scope)
    assert not np.array_equal(net.value('conv2'), before)
    assert 'compress0_learning_rate_0' in tensors(program, net.scope)
    with pytest.raises(GraphError, match='has an optimizer already'):
        context.minimize(program)
    with pytest.raises(ConfigError, match='no train_optimizer'):
        _context(net).minimize(context.forward_program())


def test_clips_are_given_to_optimizers_that_have_none() -> None:
    """A norm of nearly nothing leaves the parameters where they are."""
    moved = []
    for clip in (None, CLIP(1e-7)):
        net = JobNet(minimize=False)
        context = _context(net, train_optimizer=lambda: paddle.optimizer.SGD(0.5), clip=clip)
        before = net.value('fc')
        context.minimize(program := context.forward_program())
        image, label = next(batches())
        context.executor.run(program, feed={'x': image, 'y': label}, scope=net.scope)
        moved.append(float(np.abs(net.value('fc') - before).max()))
    assert moved[0] > 1e-3 > 1e-6 > moved[1]


def test_what_paddle_cannot_build_is_a_typed_error(ir: str) -> None:
    net = JobNet(minimize=False)
    refused = {'pir': paddle.nn.ClipGradByValue(1.0), 'legacy': paddle.nn.ClipGradByGlobalNorm(1.0)}[ir]
    legacy_2 = str(paddle.__version__).startswith('2.')
    context = _context(net, train_optimizer=adam, clip=refused)
    if legacy_2:
        context.minimize(context.forward_program())  # Paddle 2 builds both
    else:
        with pytest.raises(UnsupportedOpError, match='cannot build train_optimizer .*ClipGradBy'):
            context.minimize(context.forward_program())


def test_mixed_precision_that_would_change_nothing(ir: str) -> None:
    """CPUs have no half-precision kernels, and PIR casts while a network is built."""
    net = JobNet(minimize=False)
    context = _context(net, train_optimizer=lambda: paddle.optimizer.SGD(0.1), amp={'use_pure_fp16': False})
    with pytest.raises(UnsupportedOpError, match='auto_cast' if ir == 'pir' else 'mixed precision changes nothing'):
        context.minimize(context.forward_program())


def test_optimizers_that_do_not_serve() -> None:
    net = JobNet(minimize=False)
    used = adam()
    JobNet(used)
    for made, message in ((lambda: None, 'returned a NoneType'), (lambda: used, 'has minimized before')):
        context = _context(net, train_optimizer=made)
        with pytest.raises(ConfigError, match=message):
            context.minimize(context.forward_program())


def test_the_budget_is_judged_in_words() -> None:
    net = JobNet()
    assert Budget().exceeded(net.test, 1e9) == []
    said = Budget(seconds=2, macs=10, params=10**9).exceeded(net.test, 3.0)
    macs = 36 * 16 * 2 * 9 + 16 * 16 * 16 * 9 + 16 * 4
    assert said == ['3 of 2 seconds are used', f'{macs:,} multiply-accumulates, where 10 are allowed']
