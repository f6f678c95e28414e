"""The helper that builds training and evaluation programs."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import load_array
from paddleslim_ng.errors import ConfigError

TINY = {'scale': 0.1}


def batch(count: int = 4, size: int = 8) -> dict[str, Any]:
    random = np.random.RandomState(0)
    return {
        'image': random.rand(count, 1, size, size).astype('float32'),
        'label': random.randint(0, 10, (count, 1)).astype('int64'),
    }


def test_tutorial_call(fresh: Any) -> None:
    exe, train, val, inputs, outputs = slim.models.image_classification(
        'MobileNet', [1, 8, 8], 10, use_gpu=False, model_kwargs=TINY
    )
    assert [item.name for item in inputs] == ['image', 'label']
    assert tuple(inputs[1].shape) == (-1, 1)
    for program in (train, val):
        acc1, acc5, loss = exe.run(program, feed=batch(), fetch_list=outputs)
        assert 0 <= np.mean(acc1) <= np.mean(acc5) <= 1
        assert np.isfinite(np.mean(loss))


def test_evaluation_changes_nothing_and_training_does(fresh: Any) -> None:
    exe, train, val, _, outputs = slim.models.image_classification('MobileNet', [1, 8, 8], 10, model_kwargs=TINY)
    names = ['conv1_weights', 'conv1_bn_mean', 'fc7_weights']

    def state() -> list[Any]:
        return [load_array(fresh.scope, name) for name in names]

    initial = state()
    exe.run(val, feed=batch(), fetch_list=outputs)
    assert all(map(np.array_equal, initial, state()))
    exe.run(train, feed=batch(), fetch_list=outputs)
    assert not any(map(np.array_equal, initial, state()))


def test_metrics_against_numpy() -> None:
    scope = paddle.static.Scope()
    network = slim.models.VisionTransformer(depth=1, heads=2, head_dim=8)
    built = slim.models.build_classifier(network, [1, 8, 8], 10, seed=5, scope=scope)
    feed = batch(16)
    fetches = [*built.outputs, built.probabilities, built.logits]
    acc1, acc5, loss, probabilities, logits = built.exe.run(
        built.val_program, feed=feed, fetch_list=fetches, scope=scope
    )
    labels = feed['label'][:, 0]
    shifted = np.exp(logits.astype('float64') - logits.max(axis=1, keepdims=True))
    expected = shifted / shifted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, -np.log(expected[np.arange(16), labels]).mean(), rtol=1e-5)
    ranks = (-probabilities).argsort(axis=1, kind='stable')
    np.testing.assert_allclose(acc1, (ranks[:, 0] == labels).mean(), atol=1e-6)
    np.testing.assert_allclose(acc5, (ranks[:, :5] == labels[:, None]).any(axis=1).mean(), atol=1e-6)


def test_two_classes_have_a_top_two() -> None:
    scope = paddle.static.Scope()
    exe, _, val, _, outputs = slim.models.image_classification(
        'MobileNet', [1, 8, 8], 2, model_kwargs=TINY, scope=scope
    )
    feed = batch()
    feed['label'] %= 2
    assert exe.run(val, feed=feed, fetch_list=outputs, scope=scope)[1] == 1


def test_seed_repeats_and_names_do_not_depend_on_history() -> None:
    losses, names = [], []
    for seed in (3, 3, 0, 0):  # 0 is no seed to Paddle
        scope = paddle.static.Scope()
        exe, train, _, _, outputs = slim.models.image_classification(
            'VGG16', [1, 8, 8], 10, seed=seed, model_kwargs={'scale': 0.1, 'with_bn': True}, scope=scope
        )
        steps = [exe.run(train, feed=batch(), fetch_list=outputs, scope=scope)[2] for _ in range(3)]
        losses.append([float(loss) for loss in steps])
        names.append(sorted(v.name for v in train.list_vars() if v.persistable))
    assert losses[0] == losses[1] != losses[2] == losses[3]
    assert names[0] == names[1]


def test_own_network_and_optimizer() -> None:
    scope = paddle.static.Scope()
    optimizer = paddle.optimizer.Adam(learning_rate=0.003)
    built = slim.models.build_classifier(
        slim.models.VGG16(scale=0.1, with_bn=True), [1, 8, 8], 10, optimizer=optimizer, scope=scope
    )
    losses = [
        float(built.exe.run(built.train_program, feed=batch(), fetch_list=[built.outputs[2]], scope=scope)[0])
        for _ in range(12)
    ]
    assert built.optimizer is optimizer
    assert losses[-1] < losses[0]


def test_digits_are_learned() -> None:
    scope = paddle.static.Scope()
    splits = slim.data.digits(size=8)
    exe, train, val, inputs, outputs = slim.models.image_classification(
        'VGG16',
        [1, 8, 8],
        10,
        seed=1,
        optimizer=paddle.optimizer.Adam(0.003),
        model_kwargs={'scale': 0.1, 'with_bn': True},
        scope=scope,
    )
    reader = slim.data.BatchReader(splits.train, 64, shuffle=True, seed=1, drop_last=True)
    for _ in range(6):
        for data in reader():
            exe.run(train, feed=slim.data.make_feed(data, inputs), scope=scope)
    feed = slim.data.make_feed((splits.validation.images, splits.validation.labels), inputs)
    assert exe.run(val, feed=feed, fetch_list=outputs, scope=scope)[0] > 0.6


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('NoNet', [1, 8, 8], 10), 'unknown model'),
        (('MobileNet', [8, 8], 10), 'channels, height, width'),
        (('MobileNet', [1, 0, 8], 10), 'channels, height, width'),
        (('MobileNet', [1, 8, 8], 0), 'class_num'),
    ],
)
def test_errors_come_before_anything_is_built(arguments: Any, message: str, fresh: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        slim.models.image_classification(*arguments)
    assert fresh.scope.find_var('conv1_weights') is None


def test_errors_of_options() -> None:
    if not paddle.is_compiled_with_cuda():
        with pytest.raises(ConfigError, match='without CUDA'):
            slim.models.image_classification('MobileNet', [1, 8, 8], 10, use_gpu=True)
    with pytest.raises(ConfigError, match='by name'):
        slim.models.image_classification(slim.models.MobileNet(), [1, 8, 8], 10, model_kwargs=TINY)
    paddle.disable_static()
    with pytest.raises(ConfigError, match='enable_static'):
        slim.models.image_classification('MobileNet', [1, 8, 8], 10)


def test_tensors_outlive_the_variables_of_the_caller() -> None:
    scope = paddle.static.Scope()

    def evaluation_only() -> Any:
        exe, _, val, inputs, outputs = slim.models.image_classification(
            'MobileNet', [1, 8, 8], 10, model_kwargs=TINY, scope=scope
        )
        return exe, val, inputs, outputs

    exe, val, inputs, outputs = evaluation_only()
    gc.collect()
    evaluation_only()
    assert [item.name for item in inputs] == ['image', 'label']
    assert np.isfinite(exe.run(val, feed=batch(), fetch_list=outputs, scope=scope)[2])
