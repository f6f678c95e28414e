"""PaddleSlim's distillation tutorial, step by step: a ResNet50 teaches a MobileNet through one pair of feature maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

import paddleslim_ng as slim
from paddleslim_ng.core import load_array
from paddleslim_ng.core.teachers import teacher_variables

PAIR = ('teacher_bn5c_branch2b.output.1.tmp_3', 'depthwise_conv2d_11.tmp_0')


def test_steps_of_the_tutorial(fresh: Any) -> None:
    model = slim.models.create('MobileNet')
    student_program, student_startup = paddle.static.Program(), paddle.static.Program()
    student_program.random_seed = student_startup.random_seed = 1
    with paddle.static.program_guard(student_program, student_startup):
        image = paddle.static.data(name='image', shape=[None, 1, 28, 28], dtype='float32')
        label = paddle.static.data(name='label', shape=[None, 1], dtype='int64')
        out = model.net(input=image, class_dim=10)
        cost = paddle.nn.functional.cross_entropy(input=out, label=label, use_softmax=False)
        avg_cost = paddle.mean(x=cost)
        acc_top1 = paddle.static.accuracy(input=out, label=label, k=1)
        acc_top5 = paddle.static.accuracy(input=out, label=label, k=5)
    teacher_model = slim.models.create('ResNet50')
    teacher_program, teacher_startup = paddle.static.Program(), paddle.static.Program()
    teacher_program.random_seed = teacher_startup.random_seed = 2
    with paddle.static.program_guard(teacher_program, teacher_startup), paddle.utils.unique_name.guard():
        image = paddle.static.data(name='image', shape=[None, 1, 28, 28], dtype='float32')
        predict = teacher_model.net(image, class_dim=10)
    exe = slim.Executor(paddle.CPUPlace())
    exe.run(teacher_startup)
    batches = _batches(3)
    expected = _alone(exe, teacher_program, predict, batches[0])

    shapes = {var.name(): var.shape() for var in slim.GraphWrapper(student_program).vars()}
    assert shapes[PAIR[1]] == (-1, 512, 1, 1)
    pairs = slim.dist.match_features(teacher_program, student_program, every=True, nearest=None)
    assert (PAIR[0][len('teacher_') :], PAIR[1]) in [pair.names for pair in pairs.of_student(PAIR[1])]

    merged = slim.dist.merge(teacher_program, student_program, {'image': 'image'}, paddle.CPUPlace())
    assert merged.difference == 0.0
    assert slim.GraphWrapper(student_program).var(PAIR[0]).shape() == shapes[PAIR[1]]
    with paddle.static.program_guard(student_program, student_startup):
        l2_loss = slim.dist.l2_loss(*PAIR, student_program)
        loss = l2_loss + avg_cost
        opt = paddle.optimizer.Momentum(0.01, 0.9)
        opt.minimize(loss)
    exe.run(student_startup)

    (copied,) = teacher_variables(slim.GraphWrapper(student_program)).values()
    before = {var.name(): load_array(fresh.scope, var.name()) for var in copied}
    fetches = [slim.GraphWrapper.name_of(item) for item in (acc_top1, acc_top5, loss, l2_loss, merged[predict])]
    seen = [exe.run(student_program, feed=batches[step % 3], fetch_list=fetches) for step in range(7)]
    for acc1, acc5, loss_np, l2_np, _ in seen:
        assert 0 <= acc1.mean() <= acc5.mean() <= 1
        assert np.isfinite(loss_np).all() and 0 < l2_np < loss_np
    # The first batch again, after all three of them twice.
    assert float(seen[-1][2]) < float(seen[0][2]) and float(seen[-1][3]) < float(seen[0][3])
    for step in (0, 3, 6):
        np.testing.assert_array_equal(seen[step][4], expected)
    for name, array in before.items():
        np.testing.assert_array_equal(load_array(fresh.scope, name), array)


def _batches(count: int, size: int = 16) -> list[dict[str, Any]]:
    """Return the first batches of the digits, as the tutorial's reader and feeder give them."""
    digits = slim.data.digits(size=28).train
    reader = slim.data.BatchReader(digits, size, shuffle=True, seed=0, drop_last=True)
    return [slim.data.make_feed(data) for data, _ in zip(reader(), range(count))]


def _alone(exe: Any, program: Any, fetch: Any, feed: dict[str, Any]) -> Any:
    evaluation = slim.core.clone_program(program, for_test=True)
    return exe.run(evaluation, {'image': feed['image']}, [fetch])[0]
