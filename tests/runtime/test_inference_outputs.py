"""The outputs of an inference model that the user does not name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

from paddleslim_ng.core import GraphWrapper, clone_program
from paddleslim_ng.errors import GraphError
from paddleslim_ng.runtime import load_inference_model, save_inference_model
from paddleslim_ng.runtime.inference_outputs import inference_outputs


def found(program: Any, feeds: list[str]) -> list[str]:
    graph = GraphWrapper(clone_program(program, for_test=True))
    return [var.name() for var in inference_outputs(GraphWrapper(program), graph, feeds)]


def names(*variables: Any) -> list[str]:
    return [GraphWrapper.name_of(var) for var in variables]


def trunk() -> Any:
    image = paddle.static.data('image', [None, 3, 8, 8])
    y = F.relu(nn.BatchNorm2D(4)(nn.Conv2D(3, 4, 3)(image)))
    return nn.Linear(4, 5)(paddle.flatten(F.adaptive_avg_pool2d(y, 1), 1))


def test_what_nobody_reads(fresh: Any) -> None:
    logits = trunk()
    assert found(fresh.main, ['image']) == names(logits)


def test_batch_norm_at_the_end_has_one_output(fresh: Any) -> None:
    y = nn.BatchNorm2D(3)(paddle.static.data('image', [None, 3, 8, 8]))
    assert found(fresh.main, ['image']) == names(y)


def test_two_heads(fresh: Any) -> None:
    logits = trunk()
    first, second = F.softmax(logits), F.relu(logits)
    assert found(fresh.main, ['image']) == names(first, second)


@pytest.mark.parametrize('train', [False, True])
def test_an_evaluation_or_training_program(fresh: Any, train: bool) -> None:
    logits = trunk()
    label = paddle.static.data('label', [None, 1], 'int64')
    loss = F.cross_entropy(logits, label)
    accuracy = paddle.static.accuracy(F.softmax(logits), label)
    if train:
        paddle.optimizer.Momentum(0.1).minimize(loss)
    assert found(fresh.main, ['image']) == names(logits)
    with_label = found(fresh.main, ['image', 'label'])
    assert set(names(loss, accuracy)) <= set(with_label) and names(logits)[0] not in with_label


def test_ambiguous_and_missing(fresh: Any) -> None:
    logits = trunk()
    label = paddle.static.data('label', [None, 5])
    F.square_error_cost(F.softmax(logits), label) + F.square_error_cost(F.relu(logits), label)
    with pytest.raises(GraphError, match=r'softmax_0.tmp_0.*relu_1.tmp_0.*other inputs; name them in fetches'):
        found(fresh.main, ['image'])
    with pytest.raises(GraphError, match='none; name them'):
        found(fresh.main, [])


def test_a_loaded_model_keeps_its_outputs(fresh: Any, tmp_path: Path) -> None:
    logits = trunk()
    probabilities = F.softmax(logits)
    fresh.exe.run(fresh.startup)
    save_inference_model(fresh.main, tmp_path / 'two', ['image'], [probabilities, logits])
    model = load_inference_model(tmp_path / 'two', paddle.static.Scope())
    assert found(model.program, ['image']) == names(*model.fetches)
    saved = save_inference_model(model.program, tmp_path / 'again', model.feeds, scope=model.scope)
    assert saved.difference is not None
    assert len(load_inference_model(tmp_path / 'again', paddle.static.Scope()).fetches) == 2


def test_saving_without_fetches(fresh: Any, tmp_path: Path) -> None:
    trunk()
    fresh.exe.run(fresh.startup)
    save_inference_model(fresh.main, tmp_path / 'net', ['image'])
    model = load_inference_model(tmp_path / 'net', paddle.static.Scope())
    assert [GraphWrapper(model.program).var(item).shape() for item in model.fetches] == [(-1, 5)]
