"""Quantization in a job: while it trains, and after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import L2Distiller, Strategy
from paddleslim_ng.compress.configuration.options import QuantizationSearch, Reconstruction
from paddleslim_ng.compress.strategies import (
    DistillationStrategy,
    PostTrainingQuantStrategy,
    QuantizationStrategy,
    UniformPruneStrategy,
)
from paddleslim_ng.core import Executor, GraphWrapper, load_array
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant import float_program, quant_aware, spec_of
from paddleslim_ng.quant.aware_records import recorded
from paddleslim_ng.quant.trial_log import TrialLog
from paddleslim_ng.runtime import load_inference_model
from tests.compress.interruptions import NOWHERE, Interrupted, Point, at_points, run_until, whole_runs
from tests.compress.job_net import JobNet, batches, same, tensors
from tests.compress.test_distillation_strategy import sgd


def run(net: JobNet, *strategies: Strategy, epoch: int = 2, **options: Any) -> Any:
    compressor = net.compressor(train_optimizer=sgd, epoch=epoch, train_reader=lambda: batches(3), **options)
    for strategy in strategies:
        compressor.add_strategy(strategy)
    paddle.seed(1)
    return compressor.run()


def outputs(path: Path) -> Any:
    model = load_inference_model(path, paddle.static.Scope())
    (image, _), *_ = list(batches(4, 9))
    found = Executor().run(model.program, {model.feeds[0]: image}, model.fetches, scope=model.scope)
    return model, np.asarray(found[0])


def test_it_trains_as_quant_aware_does() -> None:
    net, twin = JobNet(sgd()), JobNet(sgd())
    result = run(net, QuantizationStrategy(weight_bits=4, moving_rate=0.8), epoch=1)
    config = {'weight_bits': 4, 'moving_rate': 0.8}
    quantized = quant_aware(twin.main, paddle.CPUPlace(), config, twin.scope)
    paddle.seed(1)
    for image, label in batches(3):
        Executor().run(quantized, {'x': image, 'y': label}, [], scope=twin.scope)
    same(tensors(result.train_program, result.scope), tensors(quantized, twin.scope))
    assert spec_of(result.eval_program, result.scope).operators


def test_the_files_are_what_was_trained(tmp_path: Path) -> None:
    net = JobNet()
    paths = {f'{kind}_model_save_path': str(tmp_path / kind / 'model') for kind in ('float', 'int8', 'inference')}
    strategy = QuantizationStrategy(1, weight_bits=4, **paths)
    result = run(net, strategy)
    assert strategy.models is not None and set(strategy.models) == {'float', 'int8', 'inference'}
    (image, label), *_ = list(batches(4, 9))
    bare = float_program(result.eval_program)
    model, found = outputs(tmp_path / 'float' / 'model')
    assert model.feeds == ['x'] and found.shape == (8, 4)
    name = GraphWrapper.name_of(model.fetches[0])
    logits = [op.all_outputs()[0].name() for op in GraphWrapper(bare).ops() if op.type() == 'elementwise_add'][-1]
    (wanted,) = Executor().run(bare, {'x': image, 'y': label}, [logits], scope=net.scope)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=name)
    feed = {'x': image, 'y': label}
    (simulated,) = Executor().run(result.eval_program, feed, [logits], scope=net.scope)
    for kind in ('int8', 'inference'):
        integers, found = outputs(tmp_path / kind / 'model')
        assert np.abs(found - simulated).max() < 0.02 * np.abs(simulated).max() + 1e-3
        assert not np.array_equal(found, wanted)
    assert max(strategy.models['int8'].distinct.values()) <= 15


def test_mobile_model(tmp_path: Path) -> None:
    strategy = QuantizationStrategy(end_epoch=1, mobile_model_save_path=str(tmp_path / 'net.nb'))
    run(JobNet(), strategy, epoch=1)
    assert strategy.models is not None and list(strategy.models) == ['mobile']
    assert (tmp_path / 'net.nb').stat().st_size > 1000 and 'int8' in str(strategy.models['mobile'])


def test_scales_follow_a_program_that_is_built_anew() -> None:
    net = JobNet()
    quantize = QuantizationStrategy(0)
    distil = DistillationStrategy([L2Distiller()], 1, 2, teacher='original', task_weight=0.0)
    result = run(net, quantize, distil, epoch=3)
    assert [entry.strategy[:5] for entry in result.journal] == ['Disti', 'Quant', 'Disti', 'Quant', 'Disti', 'Quant']
    graph = GraphWrapper(result.train_program)
    counts = [item.record.count for item in recorded(graph) if item.record.count is not None]
    expected = sum(0.9**step for step in range(9))
    assert counts and all(load_array(net.scope, name).item() == pytest.approx(expected, rel=1e-5) for name in counts)


def test_batch_norms_freeze() -> None:
    net = JobNet()
    means: list[Any] = []

    class Look(Strategy):
        def on_batch_end(self, context: Any) -> None:
            means.append(load_array(context.scope, 'batch_norm2d_0.w_1'))

    run(net, QuantizationStrategy(freeze_bn_delay=2, use_pact=True), Look(), epoch=2)
    assert not np.array_equal(means[0], means[1])
    assert all(np.array_equal(means[1], later) for later in means[2:])


JOBS: dict[str, tuple[Callable[[], list[Strategy]], list[Point]]] = {
    'distil': (
        lambda: [
            DistillationStrategy([L2Distiller()], 0, 2, teacher='original'),
            QuantizationStrategy(1, weight_bits=4, freeze_bn_delay=4),
        ],
        [('batch_begin', 2, 1), ('batch_end', 1, 1), ('batch_begin', 2, 0), ('batch_end', 2, 2)],
    ),
    'prune': (
        lambda: [
            QuantizationStrategy(1, use_pact=True, quant_delay=2),
            UniformPruneStrategy(0, target_ratio=0.4, pruned_params='conv.*', round_to=1),
        ],
        [('batch_begin', 1, 1), ('batch_end', 2, 0)],
    ),
}


def job(name: str, folder: Path, point: Point = NOWHERE, seed: int = 5) -> dict[str, Any]:
    compressor = JobNet().compressor(
        train_optimizer=sgd,
        train_reader=lambda: batches(3),
        epoch=3,
        checkpoint_path=folder / 'checkpoints',
        checkpoint_every=1,
    )
    return run_until(compressor, JOBS[name][0](), point, seed)


whole = whole_runs(job)


@at_points(JOBS)
def test_an_interrupted_job_ends_with_the_same_bits(
    tmp_path: Path, whole: Callable[[str], dict[str, Any]], name: str, point: Point
) -> None:
    with pytest.raises(Interrupted):
        job(name, tmp_path, point)
    same(job(name, tmp_path, seed=6), whole(name))


def test_after_training(tmp_path: Path) -> None:
    net = JobNet()
    paths = {f'{kind}_model_save_path': str(tmp_path / kind / 'model') for kind in ('float', 'int8')}
    strategy = PostTrainingQuantStrategy(batch_nums=2, algo='abs_max', **paths)
    result = run(net, strategy, epoch=1)
    assert strategy.quantized is not None and strategy.quantized.statistics.batches == 2
    (image, label), *_ = list(batches(4, 9))
    graph = GraphWrapper(result.eval_program)
    logits = [op.all_outputs()[0].name() for op in graph.ops() if op.type() == 'elementwise_add'][-1]
    (wanted,) = Executor().run(result.eval_program, {'x': image, 'y': label}, [logits], scope=net.scope)
    _, found = outputs(tmp_path / 'float' / 'model')
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    _, found = outputs(tmp_path / 'int8' / 'model')
    assert 0 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    spec = strategy.quantized.spec
    first = spec.tensors['x']
    largest = max(np.abs(batch).max() for batch, _ in list(batches(3))[:2])
    assert float(first.scale) == pytest.approx(largest / 127, rel=1e-6)


def test_after_training_with_learned_rounding() -> None:
    options = Reconstruction(epochs=5, simulate_activation_quant=True)
    strategy = PostTrainingQuantStrategy(weight_bits=4, reconstruction=options)
    run(JobNet(), strategy, epoch=0)
    assert strategy.quantized is not None and strategy.quantized.reconstructed is not None
    assert strategy.models == {}


def test_after_training_by_a_search_that_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = QuantizationSearch(algo=['abs_max', 'hist'], bias_correction=[False], batch_nums=[1, 3], trials=3)
    saved: list[int] = []

    def save(log: TrialLog) -> None:
        write(log)
        saved.append(len(log.trials))
        if saved == [1, 2]:
            raise KeyboardInterrupt

    def search(folder: Path) -> Any:
        strategy = PostTrainingQuantStrategy(search=options, int8_model_save_path=str(folder / 'int8' / 'model'))
        run(JobNet(), strategy, epoch=1, checkpoint_path=folder / 'checkpoints')
        assert not (folder / 'int8' / 'model.search').exists()
        return strategy.quantized

    write = TrialLog.save
    whole = search(tmp_path / 'whole')
    monkeypatch.setattr(TrialLog, 'save', save)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / 'parts')
    found = search(tmp_path / 'parts')
    assert saved == [1, 2, 3]
    assert [(trial.options, trial.loss) for trial in found.trials] == [
        (trial.options, trial.loss) for trial in whole.trials
    ]
    model, computed = outputs(tmp_path / 'parts' / 'int8' / 'model')
    assert computed.shape == (8, 4)
    np.testing.assert_array_equal(computed, outputs(tmp_path / 'whole' / 'int8' / 'model')[1])


def test_a_search_of_another_network_is_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = QuantizationSearch(algo=['abs_max'], bias_correction=[False], batch_nums=[1, 1], trials=1)
    (tmp_path / 'model.search' / 'quantized').mkdir(parents=True)
    (tmp_path / 'model.search' / 'quantized' / 'model.search.json').write_text('{}')
    strategy = PostTrainingQuantStrategy(search=options, int8_model_save_path=str(tmp_path / 'model'))
    run(JobNet(), strategy, epoch=1)
    assert 'the search starts anew' in caplog.text and outputs(tmp_path / 'model')[1].shape == (8, 4)


def test_integers_are_made_once() -> None:
    with pytest.raises(ConfigError, match='another strategy has trained'):
        run(JobNet(), QuantizationStrategy(), PostTrainingQuantStrategy(), epoch=1)


def test_unusable_options() -> None:
    with pytest.raises(ConfigError, match='weight_bits'):
        QuantizationStrategy(weight_bits=40)
    with pytest.raises(ConfigError, match='activation_quantize_type'):
        QuantizationStrategy(activation_quantize_type='abs_mox')
    with pytest.raises(ConfigError, match='quantizer'):
        QuantizationStrategy(quantizer=3)
    with pytest.raises(ConfigError, match='no meaning'):
        PostTrainingQuantStrategy(start_epoch=1)
    with pytest.raises(ConfigError, match='algo'):
        PostTrainingQuantStrategy(algo='histo')
