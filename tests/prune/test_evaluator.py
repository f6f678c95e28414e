"""Evaluators: every engine and mode measures what an evaluation function measures."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import load_array, store_array
from paddleslim_ng.errors import CheckpointError, ConfigError, DataError, EquivalenceError, GraphError
from paddleslim_ng.prune.evaluation import evaluator as evaluator_module
from paddleslim_ng.prune.evaluation.batch_metrics import make_metric
from paddleslim_ng.prune.evaluation.engine_check import compare_outputs
from paddleslim_ng.prune.evaluation.engines import PredictorEngine
from paddleslim_ng.prune.evaluation.evaluator import Evaluator
from paddleslim_ng.prune.sensitive.sensitivity import sensitivity
from tests.prune.sensitivity_net import PARAMETERS, Measured, measured

RATIOS = [0.25, 0.5]
ROOT = Path(__file__).resolve().parents[2]
MODES = [{}, {'cache_prefix': False}, {'cache_bytes': 40_000}, {'processes': 2}]


@pytest.fixture
def net() -> Iterator[Measured]:
    with measured() as built:
        yield built


def probability(outputs: Any, feed: Any) -> float:
    return float(np.take_along_axis(outputs[0], feed['label'], 1).astype('float64').mean())


def evaluator(net: Measured, metric: Any = probability, **options: Any) -> Evaluator:
    return Evaluator(net.feeds, metric, [net.net.probabilities], **options)


def analyse(net: Measured, evaluator: Evaluator, **options: Any) -> dict[str, dict[float, float]]:
    return sensitivity(
        net.program, None, PARAMETERS, pruned_ratios=RATIOS, scope=net.scope, evaluator=evaluator, **options
    )


def by_function(net: Measured) -> dict[str, dict[float, float]]:
    return sensitivity(net.program, None, PARAMETERS, net.evaluate, None, RATIOS, scope=net.scope)


def agree(one: dict[str, dict[float, float]], other: dict[str, dict[float, float]], tolerance: float) -> bool:
    return one.keys() == other.keys() and all(one[name] == pytest.approx(other[name], abs=tolerance) for name in one)


@pytest.mark.parametrize('engine', ['executor', 'predictor'])
def test_same_digits_in_every_mode(net: Measured, engine: str) -> None:
    before = net.parameters()
    found = [analyse(net, evaluator(net, engine=engine, **mode)) for mode in MODES]
    assert all(result == found[0] for result in found)
    assert agree(found[0], by_function(net), 1e-6 if engine == 'executor' else 1e-5)
    assert all(np.array_equal(before[name], array) for name, array in net.parameters().items())


def test_onednn_flag(net: Measured, ir: str) -> None:
    if ir == 'legacy':
        with pytest.raises(ConfigError, match='first weights'):
            analyse(net, evaluator(net, engine='onednn'))
        return
    chosen = evaluator(net, engine='onednn')
    assert agree(analyse(net, chosen), by_function(net), 1e-5)
    assert chosen.report is not None
    assert chosen.report.relative_difference < 2e-5


@pytest.mark.parametrize('options', [{'engine': 'executor'}, {'engine': 'predictor', 'processes': 2}])
def test_cutting_and_zeroing_agree(net: Measured, options: dict[str, Any]) -> None:
    before = net.parameters()
    cut = analyse(net, evaluator(net, **options), always_cut=True)
    assert agree(cut, by_function(net), 1e-5)
    assert all(np.array_equal(before[name], array) for name, array in net.parameters().items())


def test_report_of_the_engine(net: Measured) -> None:
    chosen = evaluator(net, engine='predictor')
    value = chosen.evaluate(net.program, net.scope)
    assert value == pytest.approx(net.evaluate(net.program), abs=1e-6)
    assert chosen.report is not None
    assert (chosen.report.engine, chosen.report.samples, chosen.report.flipped) == ('predictor', 6, 0)
    assert 0 <= chosen.report.relative_difference < 2e-5
    assert 'flipped' in str(chosen.report)


def test_flipped_samples_are_counted() -> None:
    scores = np.array([[1.0, 0.0], [0.5, 0.5 + 1e-6], [0.2, 0.8]])
    other = scores + np.array([[0.0, 0.0], [2e-6, 0.0], [0.0, 0.0]])
    report = compare_outputs('predictor', [scores], [other], 3)
    assert (report.flipped, report.agrees, report.samples) == (1, True, 3)
    assert not compare_outputs('predictor', [scores], [scores * 1.001], 3).agrees
    assert not compare_outputs('predictor', [scores], [scores[:2]], 3).agrees
    assert compare_outputs('predictor', [np.array(0.5)], [np.array(0.75)], 4).agrees, 'one sample of an accuracy'
    assert not compare_outputs('predictor', [np.array(0.5)], [np.array(0.95)], 4).agrees


def test_named_metrics_equal_those_of_the_program(net: Measured) -> None:
    rng = np.random.default_rng(0)
    for feed in net.feeds:
        feed['label'] = rng.integers(0, 5, feed['label'].shape)
    for name, output in (('top1', net.net.outputs[0]), ('top5', net.net.outputs[1])):
        mine = evaluator(net, name).evaluate(net.program, net.scope)
        theirs = Evaluator(net.feeds, 'mean', [output]).evaluate(net.program, net.scope)
        assert mine == pytest.approx(theirs, abs=1e-7)


def test_batches_count_by_their_size(net: Measured) -> None:
    sizes = iter([6, 6, 6, 3])
    value = evaluator(net, lambda outputs, feed: float(next(sizes) == 3)).evaluate(net.program, net.scope)
    assert value == pytest.approx(3 / 21)


def test_batches_from_a_function_and_a_label_elsewhere(net: Measured) -> None:
    def batches() -> Iterator[dict[str, Any]]:
        for feed in net.feeds:
            yield {'image': feed['image'].tolist(), 'truth': feed['label']}

    with pytest.raises(DataError):
        Evaluator(lambda: [{'image': np.zeros([2, 1, 8, 8], 'float32'), 'label': np.zeros(3)}], 'top1', ['x']).metric(
            [np.zeros([2, 5])], {'label': np.zeros(3)}
        )
    made = Evaluator(batches, 'top1', [net.net.probabilities], label='truth')
    made.feeds = [{**feed, 'image': feed['image'].astype('float32')} for feed in made.feeds]
    assert made.evaluate(net.program, net.scope) == 1.0


def test_little_work_stays_with_the_executor(net: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    small = evaluator(net)
    small.evaluate(net.program, net.scope)
    monkeypatch.setattr(evaluator_module, '_WORTH_A_PREDICTOR', 0.0)
    large = evaluator(net)
    large.evaluate(net.program, net.scope)
    assert small.report is not None
    assert large.report is not None
    assert (small.report.engine, large.report.engine) == ('executor', 'predictor')


def test_falls_back_loudly(net: Measured, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_arguments: object) -> None:
        raise RuntimeError('no such kernel')

    monkeypatch.setattr(evaluator_module, '_WORTH_A_PREDICTOR', 0.0)
    monkeypatch.setattr(PredictorEngine, 'runner', refuse)
    chosen = evaluator(net)
    with caplog.at_level(logging.WARNING, 'paddleslim_ng'):
        assert chosen.evaluate(net.program, net.scope) == pytest.approx(net.evaluate(net.program), abs=1e-6)
    assert 'no such kernel' in caplog.text
    with pytest.raises(RuntimeError, match='no such kernel'):
        evaluator(net, engine='predictor').evaluate(net.program, net.scope)


def test_wrong_engine_is_an_error(net: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PredictorEngine.runner

    class Wrong:
        def __init__(self, runner: Any) -> None:
            self.runner = runner

        def run(self, feed: Any) -> list[Any]:
            return [array + 0.01 for array in self.runner.run(feed)]

    monkeypatch.setattr(PredictorEngine, 'runner', lambda *arguments: Wrong(original(*arguments)))
    with pytest.raises(EquivalenceError, match='use engine executor'):
        evaluator(net, engine='predictor').evaluate(net.program, net.scope)


def test_file_knows_the_data(net: Measured, tmp_path: Path) -> None:
    path = tmp_path / 's.json'
    found = analyse(net, evaluator(net), sensitivities_file=path)
    assert analyse(net, evaluator(net, processes=2), sensitivities_file=path) == found
    net.feeds[0]['image'][0, 0, 0, 0] += 1
    with pytest.raises(CheckpointError, match='data or metric'):
        analyse(net, evaluator(net), sensitivities_file=path)


def test_parameters_in_the_scope_are_copied(net: Measured) -> None:
    run = evaluator(net).start(net.program, net.scope)
    before = run.baseline()
    head = load_array(net.scope, 'fc_weights')
    store_array(net.scope, 'fc_weights', np.zeros_like(head))
    assert run.baseline() == before
    run.close()


@pytest.mark.parametrize(
    'build',
    [
        lambda net: Evaluator([], probability, ['x']),
        lambda net: Evaluator([{}], probability, ['x']),
        lambda net: Evaluator([[1]], probability, ['x']),  # type: ignore[list-item]
        lambda net: Evaluator([{'image': np.zeros([0, 2])}], probability, ['x']),
        lambda net: Evaluator([{'image': np.zeros(1)}, {'img': np.zeros(1)}], probability, ['x']),
        lambda net: Evaluator(net.feeds, probability, []),
        lambda net: Evaluator(net.feeds, probability, 'x'),
        lambda net: Evaluator(net.feeds, 'top7', ['x']),
        lambda net: Evaluator(net.feeds, 'top1', ['x'], label='truth'),
        lambda net: Evaluator(net.feeds, probability, ['x'], engine='fast'),
        lambda net: Evaluator(net.feeds, probability, ['x'], processes=0),
    ],
)
def test_unusable_arguments(net: Measured, build: Any) -> None:
    with pytest.raises(ConfigError):
        build(net)


def test_missing_inputs_and_outputs(net: Measured) -> None:
    images = [{'image': feed['image']} for feed in net.feeds]
    with pytest.raises(GraphError, match='label'):
        Evaluator(images, 'mean', [net.net.outputs[0]]).evaluate(net.program, net.scope)
    with pytest.raises(GraphError, match='nothing_of_the_kind'):
        Evaluator(images, 'mean', ['nothing_of_the_kind']).evaluate(net.program, net.scope)
    with pytest.raises(GraphError):
        Evaluator(images, 'mean', [net.net.probabilities]).evaluate(net.program, paddle.static.Scope())


def test_bad_metric_is_an_error(net: Measured) -> None:
    with pytest.raises(ConfigError, match='the metric returned None'):
        evaluator(net, lambda outputs, feed: None).evaluate(net.program, net.scope)
    with pytest.raises(DataError, match='gave 0'):
        analyse(net, evaluator(net, lambda outputs, feed: 0.0))
    with pytest.raises(ConfigError, match='known: mean, top1'):
        make_metric('nonsense', None, ['x'])


def test_either_function_or_evaluator(net: Measured) -> None:
    with pytest.raises(ConfigError, match='either'):
        analyse(net, evaluator(net), eval_func=net.evaluate)
    with pytest.raises(ConfigError, match='eval_args'):
        analyse(net, evaluator(net), eval_args=[1])


def test_failure_in_a_process_is_reported(net: Measured) -> None:
    run = evaluator(net, processes=2).start(net.program, net.scope)
    try:
        with pytest.raises(DataError, match='no_such_parameter'):
            run.masked('c1_weights', {'no_such_parameter': [(0, np.array([0]))]})
    finally:
        run.close()


def test_processes_end_with_their_owner() -> None:
    """Also when the owner is killed; and a script needs no ``__main__`` guard to use processes."""
    script = """
        import os, signal
        import paddle
        paddle.enable_static()
        from paddleslim_ng.prune.evaluation.evaluator import Evaluator
        from tests.prune.sensitivity_net import measured
        with measured() as net:
            run = Evaluator(net.feeds, 'top1', [net.net.probabilities], processes=2).start(net.program, net.scope)
            assert run.baseline() == 1.0
            print(*[worker._process.pid for worker in run._pool._workers], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(script)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(word) for word in done.stdout.split()[-2:]]
    deadline = time.monotonic() + 20
    while any(map(_is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_is_running, pids))


def _is_running(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False
