"""Sensitivity by an evaluation function: results, resuming, restored parameters, errors."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import load_array, store_array
from paddleslim_ng.errors import CheckpointError, ConfigError, DataError, GraphError, NotPrunableError
from paddleslim_ng.prune.records import record_name
from paddleslim_ng.prune.sensitive.sensitivity import sensitivity
from paddleslim_ng.prune.sensitive.sensitivity_file import load_sensitivities
from tests.prune.sensitivity_net import PARAMETERS, Measured, measured

RATIOS = [0.25, 0.5]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def net() -> Iterator[Measured]:
    with measured() as built:
        yield built


def analyse(net: Measured, parameters: list[str] = PARAMETERS, **options: Any) -> dict[str, dict[float, float]]:
    options.setdefault('pruned_ratios', RATIOS)
    options.setdefault('eval_func', net.evaluate)
    return sensitivity(net.program, paddle.CPUPlace(), parameters, scope=net.scope, **options)


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return before.keys() == after.keys() and all(
        before[name].shape == after[name].shape and before[name].tobytes() == after[name].tobytes() for name in before
    )


def test_losses_of_masked_networks(net: Measured) -> None:
    found = analyse(net)
    assert list(found) == PARAMETERS
    assert all(list(curve) == RATIOS for curve in found.values())
    assert all(program is net.program for program in net.calls), 'one program serves all evaluations'
    assert len(net.calls) == 1 + len(PARAMETERS) * len(RATIOS)
    # c4 feeds only the classifier: zeroing rows of the classifier is the same, and easily written down.
    weights = load_array(net.scope, 'c4_weights')
    lost = np.argsort(np.abs(weights).reshape(20, -1).sum(1))[:10]
    baseline = net.evaluate(net.program)
    head = load_array(net.scope, 'fc_weights')
    head[lost] = 0
    store_array(net.scope, 'fc_weights', head)
    assert found['c4_weights'][0.5] == pytest.approx((baseline - net.evaluate(net.program)) / baseline, abs=1e-6)
    assert abs(found['c4_weights'][0.5]) > 1e-3, 'the figure would be 0 if nothing had been pruned'


def test_zeroing_and_cutting_agree(net: Measured) -> None:
    before = net.parameters()
    zeroed = analyse(net)
    cut = analyse(net, always_cut=True)
    for name in PARAMETERS:
        assert zeroed[name] == pytest.approx(cut[name], abs=1e-6)
    assert same(before, net.parameters())
    assert len({id(program) for program in net.calls}) > len(RATIOS), 'pruned programs were evaluated'
    assert net.scope.find_var(record_name('c4_weights', 0)) is None, 'cutting leaves no records behind'


def test_default_ratios(net: Measured) -> None:
    found = analyse(net, ['c4_weights'], pruned_ratios=None)
    assert list(found['c4_weights']) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_global_scope_and_arguments(net: Measured) -> None:
    seen: list[Any] = []

    def evaluate(program: Any, factor: float, offset: float) -> Any:
        seen.append((factor, offset))
        return np.array([[net.evaluate(program) * factor + offset]])

    found = sensitivity(net.program, paddle.CPUPlace(), ['c4_weights'], evaluate, None, [0.5], [2.0, 0.0])
    assert found['c4_weights'] == pytest.approx({0.5: analyse(net, ['c4_weights'])['c4_weights'][0.5]})
    assert set(seen) == {(2.0, 0.0)}


def test_sign_of_the_loss_with_a_negative_metric(net: Measured) -> None:
    """A metric such as minus the loss is negative; getting worse is a positive loss all the same."""
    found = analyse(net, ['c4_weights'], eval_func=lambda program: net.evaluate(program) - 1.0)
    for ratio, loss in analyse(net, ['c4_weights'])['c4_weights'].items():
        assert np.sign(found['c4_weights'][ratio]) == np.sign(loss)


def test_second_run_measures_only_what_is_new(net: Measured, tmp_path: Path) -> None:
    path = tmp_path / 's.json'
    whole = analyse(net)
    net.calls.clear()
    first = analyse(net, ['c1_weights', 'c4_weights'], sensitivities_file=path, pruned_ratios=[0.25])
    assert len(net.calls) == 3
    second = analyse(net, ['c4_weights', 'c2_weights'], sensitivities_file=path, pruned_ratios=[0.5, 0.25])
    assert len(net.calls) == 3 + 3
    assert second == {name: whole[name] for name in ('c4_weights', 'c2_weights')}
    assert list(second['c4_weights']) == RATIOS
    assert load_sensitivities(path) == {**second, 'c1_weights': first['c1_weights']}
    assert analyse(net, ['c1_weights'], sensitivities_file=path, pruned_ratios=[0.25]) == {
        'c1_weights': first['c1_weights']
    }
    assert len(net.calls) == 6, 'nothing was left to measure, the baseline neither'


@pytest.mark.parametrize('always_cut', [False, True])
@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_interruption_restores_and_resumes(
    net: Measured, tmp_path: Path, error: type[BaseException], always_cut: bool
) -> None:
    path, before = tmp_path / 's.json', net.parameters()
    whole = analyse(net, always_cut=always_cut)
    net.calls.clear()

    def breaks(program: Any) -> float:
        if len(net.calls) == 4:
            raise error('stop')
        return net.evaluate(program)

    with pytest.raises(error, match='stop'):
        analyse(net, eval_func=breaks, sensitivities_file=path, always_cut=always_cut)
    assert same(before, net.parameters())
    assert sum(map(len, load_sensitivities(path).values())) == 3
    assert analyse(net, sensitivities_file=path, always_cut=always_cut) == whole
    assert len(net.calls) == 1 + len(PARAMETERS) * len(RATIOS)


def test_kill_loses_one_evaluation(tmp_path: Path) -> None:
    """A process killed in its fourth evaluation leaves three results behind, and the next goes on from there."""
    script = """
        import os, signal, sys
        import paddle
        paddle.enable_static()
        from paddleslim_ng.prune.sensitive.sensitivity import sensitivity
        from tests.prune.sensitivity_net import PARAMETERS, measured
        with measured() as net:
            def evaluate(program):
                if sys.argv[2] == 'kill' and len(net.calls) == 4:
                    os.kill(os.getpid(), signal.SIGKILL)
                return net.evaluate(program)
            sensitivity(net.program, None, PARAMETERS, evaluate, sys.argv[1], [0.25, 0.5], scope=net.scope)
            print(len(net.calls))
    """
    path = tmp_path / 's.json'
    command = [sys.executable, '-c', textwrap.dedent(script), str(path)]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    killed = subprocess.run([*command, 'kill'], env=environment, capture_output=True, check=False)
    assert killed.returncode == -9
    assert sum(map(len, load_sensitivities(path).values())) == 3
    done = subprocess.run([*command, 'go on'], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) == len(PARAMETERS) * 2 - 3
    with measured() as net:
        assert load_sensitivities(path) == analyse(net, pruned_ratios=[0.25, 0.5])


def test_file_of_other_weights_is_stale(net: Measured, tmp_path: Path) -> None:
    path = tmp_path / 's.json'
    analyse(net, ['c1_weights'], sensitivities_file=path)
    head = load_array(net.scope, 'fc_weights')
    head[0, 0] += 1e-3
    store_array(net.scope, 'fc_weights', head)
    with pytest.raises(CheckpointError, match='stale: the network'):
        analyse(net, ['c1_weights'], sensitivities_file=path)
    with pytest.raises(CheckpointError, match='stale'):
        analyse(net, ['c1_weights'], sensitivities_file=path, criterion='l2_norm')


def test_file_is_readable_json(net: Measured, tmp_path: Path) -> None:
    path = tmp_path / 's.json'
    found = analyse(net, ['c1_weights'], sensitivities_file=path)
    content = json.loads(path.read_text())
    assert content['sensitivities'] == {'c1_weights': {repr(r): loss for r, loss in found['c1_weights'].items()}}
    assert content['baseline'] == net.evaluate(net.program)


def test_unprunable_parameters_are_named_and_left_out(net: Measured, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, 'paddleslim_ng'):
        assert list(analyse(net, ['fc_weights', 'c4_weights'])) == ['c4_weights']
    assert 'fc_weights' in caplog.text
    with pytest.raises(NotPrunableError, match='fc_weights'):
        analyse(net, ['fc_weights'])


@pytest.mark.parametrize(
    ('value', 'error', 'words'),
    [
        (None, ConfigError, 'returned None'),
        (np.zeros(3), ConfigError, r'3 values of shape \[3\]'),
        ([], ConfigError, '0 values.*slim.Executor'),
        ('good', ConfigError, 'good'),
        (float('nan'), DataError, 'nan'),
        (float('inf'), DataError, 'inf'),
        (0.0, DataError, 'gave 0'),
    ],
)
def test_unusable_metrics(net: Measured, tmp_path: Path, value: Any, error: type[Exception], words: str) -> None:
    path = tmp_path / 's.json'
    with pytest.raises(error, match=words):
        analyse(net, eval_func=lambda program: value, sensitivities_file=path)
    assert not path.exists(), 'a file without a measurement says nothing'


@pytest.mark.parametrize('value', [np.float32(0.5), np.array(0.5), np.array([[0.5]]), [np.array([0.5])], 1])
def test_usable_metrics(net: Measured, value: Any) -> None:
    assert analyse(net, ['c1_weights'], eval_func=lambda program: value) == {'c1_weights': dict.fromkeys(RATIOS, 0.0)}


@pytest.mark.parametrize(
    'options',
    [
        {'pruned_ratios': [0.0]},
        {'pruned_ratios': [1.0]},
        {'pruned_ratios': []},
        {'parameters': []},
        {'parameters': 'c1_weights'},
        {'eval_func': None},
        {'eval_func': 3},
        {'eval_args': 'abc'},
    ],
)
def test_unusable_arguments(net: Measured, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        analyse(net, **options)
    assert not net.calls


def test_unknown_parameter_and_empty_scope(net: Measured) -> None:
    with pytest.raises(GraphError, match='did you mean'):
        analyse(net, ['c1_weight'])
    with pytest.raises(GraphError):
        sensitivity(net.program, None, ['c1_weights'], net.evaluate, scope=paddle.static.Scope())
    assert not net.calls


def test_training_program_is_refused(net: Measured) -> None:
    with pytest.raises(ConfigError, match='for_test=True'):
        sensitivity(net.net.train_program, None, ['c1_weights'], net.evaluate, scope=net.scope)


def test_silent_when_not_a_terminal(net: Measured, capfd: pytest.CaptureFixture[str]) -> None:
    analyse(net, ['c1_weights'])
    assert 'evaluation/s' not in capfd.readouterr().err
    analyse(net, ['c1_weights'], progress=True)
    assert 'evaluation/s' in capfd.readouterr().err
