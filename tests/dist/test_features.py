"""Feature maps and pairs of them, against counts made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng import models
from paddleslim_ng.analysis import ReportTable, write_report
from paddleslim_ng.analysis.report import Report
from paddleslim_ng.analysis.shapes import forward_ops
from paddleslim_ng.core import GraphWrapper, clone_program, store_array
from paddleslim_ng.dist.feature_pairs import match_features
from paddleslim_ng.dist.features import find_features
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.runtime import load_inference_model, save_inference_model
from tests.conftest import Fresh


def network(name: str, optimizer: bool = False) -> Any:
    """Build a classifier of 28 x 28 digits and return its program."""
    main = paddle.static.Program()
    with paddle.static.program_guard(main, paddle.static.Program()), paddle.utils.unique_name.guard():
        image = paddle.static.data('image', [-1, 1, 28, 28], 'float32')
        label = paddle.static.data('label', [-1, 1], 'int64')
        net = models.create(name)
        net.net(image, 10)
        if optimizer:
            paddle.optimizer.Momentum(0.1).minimize(F.cross_entropy(net.logits, label))
    return main


def small(width: int, *, batch: int = -1, size: int = 8, layout: str = 'NCHW') -> Any:
    """conv-bn-relu, conv-relu, residual sum, pool, linear; 10 operators deep."""
    main = paddle.static.Program()
    with paddle.static.program_guard(main, paddle.static.Program()), paddle.utils.unique_name.guard():
        shape = [3, size, size] if layout == 'NCHW' else [size, size, 3]
        x = paddle.static.data('x', [batch, *shape], 'float32')
        conv = nn.Conv2D(3, width, 3, padding=1, bias_attr=False, data_format=layout)(x)
        first = F.relu(nn.BatchNorm2D(width, data_format=layout)(conv))
        second = F.relu(nn.Conv2D(width, width, 1, bias_attr=False, data_format=layout)(first))
        joined = first + second
        if layout == 'NCHW':
            flat = paddle.flatten(F.adaptive_avg_pool2d(joined, 1), 1)
            nn.Linear(width, 4)(flat)
        else:
            nn.Conv2D(width, 4, 1, bias_attr=False, data_format=layout)(joined)
    return main


def types_of(program: Any, every: bool = False) -> list[tuple[str, int]]:
    """Return the maker and the depth of each feature."""
    graph = GraphWrapper(program)
    found = find_features(graph, forward_ops(graph), every=every)
    return [(graph.var(feature.name).inputs()[0].type(), feature.depth) for feature in found]


def test_depths_are_those_counted_by_hand() -> None:
    ends = [('relu', 3), ('relu', 5), ('elementwise_add', 6), ('pool2d', 7), ('elementwise_add', 9)]
    assert types_of(small(8)) == ends
    everything = [('conv2d', 1), ('batch_norm', 2), ('relu', 3), ('conv2d', 4), *ends[1:4], ('matmul_v2', 8), ends[4]]
    assert types_of(small(8), every=True) == everything


def test_no_label_loss_metric_or_gradient_is_a_feature(fresh: Fresh) -> None:
    x = paddle.static.data('x', [-1, 6], 'float32')
    label = paddle.static.data('label', [-1, 1], 'int64')
    wanted = paddle.static.data('wanted', [-1, 4], 'float32')
    hidden = F.dropout(F.relu(nn.Linear(6, 5)(x)))
    logits = nn.Linear(5, 4)(hidden)
    chosen = F.one_hot(label, 4).reshape([-1, 4]) * logits
    loss = F.cross_entropy(logits, label) + ((logits - wanted) ** 2).mean() + chosen.mean()
    paddle.static.accuracy(F.softmax(logits), label)
    paddle.optimizer.Adam(0.1).minimize(loss)
    assert types_of(fresh.main) == [('dropout', 4), ('elementwise_add', 6)]
    assert [kind for kind, _ in types_of(fresh.main, every=True)] == [
        'matmul_v2', 'elementwise_add', 'relu', 'dropout', 'matmul_v2', 'elementwise_add'
    ]  # fmt: skip


def test_end_of_a_network_without_classifier(fresh: Fresh) -> None:
    x = paddle.static.data('x', [-1, 3, 8, 8], 'float32')
    end = F.relu(nn.BatchNorm2D(4)(nn.Conv2D(3, 4, 3)(x)))
    pooled = F.adaptive_avg_pool2d(end, 1)
    F.softmax(paddle.flatten(pooled, 1))
    assert [kind for kind, _ in types_of(fresh.main)] == ['relu', 'pool2d']


def test_pair_of_the_tutorial_is_found() -> None:
    teacher, student = network('ResNet50'), network('MobileNet', optimizer=True)
    pairs = match_features(teacher, student, every=True, nearest=None)
    (pair,) = [
        p for p in pairs.of_student('depthwise_conv2d_11.tmp_0') if p.teacher.name == 'bn5c_branch2b.output.1.tmp_3'
    ]
    assert pair.exact
    assert pair.teacher.shape == pair.student.shape == (-1, 512, 1, 1)
    # conv, bn, relu; eleven blocks of six; the convolution; of the same, two blocks more, pool, matrix, bias.
    assert pair.student.relative_depth == (3 + 11 * 6 + 1) / (3 + 13 * 6 + 3)
    # conv, bn, relu, pool; blocks of ten, of which the last is passed by six.
    assert pair.teacher.relative_depth == (4 + 15 * 10 + 6) / (4 + 16 * 10 + 3)
    nearest = match_features(teacher, student).of_student('relu_23.tmp_0')
    assert [p.teacher.name for p in nearest] == ['bn5a_branch2b.output.1.tmp_3']
    assert match_features(teacher, clone_program(student, for_test=True)) == match_features(teacher, student)


def test_every_pair_has_one_size_and_the_nearest_depth() -> None:
    teacher, student = network('ResNet18'), network('MobileNetV2')
    whole = match_features(teacher, student, nearest=None, channels='any')
    chosen = match_features(teacher, student, channels='any')
    assert len(chosen) > 30
    for pair in chosen:
        assert pair.teacher.sizes[2:] == pair.student.sizes[2:]
        assert pair.distance == min(other.distance for other in whole.of_student(pair.student.name))
    depths = [pair.student.depth for pair in chosen]
    assert depths == sorted(depths)
    assert len({pair.student.name for pair in chosen}) == len(chosen)


def test_adapters_change_channels_alone() -> None:
    teacher, student = small(16), small(8)
    exact, adapted = match_features(teacher, student), match_features(teacher, student, channels='any')
    assert [pair.student.shape for pair in exact] == [(-1, 4)]
    assert [(pair.teacher.channels, pair.student.channels) for pair in adapted] == [(16, 8)] * 4 + [(4, 4)]
    assert [pair.exact for pair in adapted] == [False] * 4 + [True]
    assert not adapted.unmatched
    assert len(exact.unmatched) == 4
    assert len(match_features(small(16, size=6), student, channels='any')) == 2  # pooled, and the end


def test_channels_are_found_where_the_layout_puts_them() -> None:
    pairs = match_features(small(16, layout='NHWC'), small(8, layout='NHWC'), channels='any')
    assert [(pair.teacher.channels, pair.student.channels) for pair in pairs][:1] == [(16, 8)]
    assert {pair.student.channel_axis for pair in pairs} == {3}


def test_fixed_batch_fits_an_open_one() -> None:
    pairs = match_features(small(8, batch=16), small(8))
    assert [pair.teacher.shape[0] for pair in pairs] == [16] * 5
    assert [pair.teacher.name for pair in pairs] == [pair.student.name for pair in pairs]


def test_tokens_match_by_their_number() -> None:
    main = []
    for size in (28, 28, 14):
        program = paddle.static.Program()
        with paddle.static.program_guard(program, paddle.static.Program()), paddle.utils.unique_name.guard():
            models.create('VisionTransformer', patch_size=7, depth=2, heads=3, head_dim=4).net(
                paddle.static.data('image', [-1, 1, size, size], 'float32'), 10
            )
        main.append(program)
    pairs = match_features(main[0], main[1])
    assert len(pairs) > 8
    assert all(pair.exact and pair.distance == 0 for pair in pairs)
    assert len(match_features(main[2], main[1])) < len(pairs)


def test_open_sizes_are_to_be_given() -> None:
    teacher, student = small(8, size=-1), small(8)
    with pytest.raises(GraphError, match='input_shapes'):
        match_features(teacher, student)
    pairs = match_features(teacher, student, input_shapes={'x': [None, 3, 8, 8]})
    assert [pair.teacher.shape for pair in pairs][0] == (-1, 8, -1, -1)
    assert len(pairs) == 5
    with pytest.raises(GraphError, match="'y', which neither"):
        match_features(teacher, student, input_shapes={'y': [None, 3, 8, 8]})


def test_names_under_a_prefix_to_come() -> None:
    plain, prefixed = match_features(small(8), small(8)), match_features(small(8), small(8), prefix='t_')
    assert [pair.names for pair in prefixed] == [('t_' + t, s) for t, s in (pair.names for pair in plain)]


def test_saved_teacher_has_the_pairs_of_its_program(tmp_path: Path) -> None:
    program = small(8)
    scope = paddle.static.Scope()
    for var in GraphWrapper(program).all_parameters():
        store_array(scope, var.name(), np.ones(var.shape(), 'float32'))
    (end,) = [var for var in GraphWrapper(program).vars() if var.shape() == (-1, 4) and not var.outputs()]
    save_inference_model(program, str(tmp_path / 'net'), ['x'], [end.name()], scope=scope)
    loaded = match_features(load_inference_model(str(tmp_path / 'net')), program)
    built = match_features(program, program)
    assert [(pair.student, pair.teacher.depth) for pair in loaded] == [
        (pair.student, pair.teacher.depth) for pair in built
    ]


@pytest.mark.full
@pytest.mark.parametrize('name', list(models.MODELS))
@pytest.mark.parametrize('every', [False, True])
def test_every_network_matches_itself(name: str, every: bool) -> None:
    main = paddle.static.Program()
    with paddle.static.program_guard(main, paddle.static.Program()), paddle.utils.unique_name.guard():
        image = paddle.static.data('image', [-1, *([1, 32, 32] if name == 'LeNet' else [3, 64, 64])], 'float32')
        models.create(name).net(image, 10)
    pairs = match_features(main, main, every=every)
    assert all(pair.exact and pair.distance == 0 for pair in pairs)
    assert not pairs.unmatched
    convolutions = [op for op in GraphWrapper(main).ops() if op.type().endswith('conv2d')]
    assert len(pairs) >= len(convolutions) > 0


def test_table_names_what_fits_and_what_does_not(tmp_path: Path) -> None:
    pairs = match_features(small(16), small(8))
    lines = str(pairs).splitlines()
    assert lines[0].split()[:2] == ['student', 'teacher']
    assert pairs[0].student.name in lines[1]
    assert 'exact' in lines[1]
    assert lines[-1].startswith('No teacher feature fits relu_0.tmp_0 [-1, 8, 8, 8]')
    assert isinstance(pairs.table(), ReportTable)
    write_report(tmp_path / 'pairs.html', Report('Pairs', tables=[pairs.table()]))
    assert pairs[0].student.name in (tmp_path / 'pairs.html').read_text('utf-8')
    assert not match_features(small(16, size=6), paddle.static.Program())


def test_errors() -> None:
    with pytest.raises(ConfigError, match="'equal' or 'any'"):
        match_features(small(8), small(8), channels='all')
    with pytest.raises(ConfigError, match='nearest'):
        match_features(small(8), small(8), nearest=0)
    with pytest.raises(GraphError, match='holds the teachers'):
        match_features(small(8))
    with pytest.raises(GraphError, match='did you mean'):
        match_features(small(8), small(8)).of_student('relu_0.tmp_1')
