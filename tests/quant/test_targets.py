"""Targets: which operators are quantized, through which tensors and axes, and why the others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
import paddle.nn as nn
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.teachers import mark_distillation, mark_teacher
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant.targets import FULL, TARGETS, Targets, find_targets
from tests.quant import quantized_nets as nets


def attr(name: str) -> Any:
    return paddle.ParamAttr(name=name)


def network(*, training: bool = False) -> Any:
    """A convolution, a depthwise one, transposed ones (grouped, depthwise), a sum, a pooling, and a linear layer."""
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [-1, 3, 8, 8], 'float32')
        a = nn.Conv2D(3, 6, 3, padding=1, weight_attr=attr('conv'), bias_attr=False)(x)
        b = nn.Conv2D(6, 6, 3, padding=1, groups=6, weight_attr=attr('depth'), bias_attr=False)(a)
        c = nn.Conv2D(6, 6, 3, padding=1, groups=2, weight_attr=attr('group'), bias_attr=False)(a)
        d = nn.Conv2DTranspose(6, 4, 3, groups=2, weight_attr=attr('up'), bias_attr=False)(b + c)
        e = nn.Conv2DTranspose(4, 4, 3, groups=4, weight_attr=attr('up_depth'), bias_attr=False)(d)
        flat = paddle.flatten(nn.functional.adaptive_avg_pool2d(e, 1), 1)
        y = nn.Linear(4, 5, weight_attr=attr('fc'))(flat)
        if training:
            paddle.optimizer.SGD(0.1).minimize(paddle.mean(y))
    return main


WEIGHTS = {'conv': 0, 'depth': 0, 'group': 0, 'up': 1, 'up_depth': 1, 'fc': 1}


def reasons(targets: Targets) -> str:
    return ' '.join(targets.skipped.values())


@pytest.mark.parametrize('training', [False, True])
def test_operators_with_weights(training: bool) -> None:
    graph = GraphWrapper(network(training=training))
    targets = find_targets(graph)
    assert targets.weights == WEIGHTS and not targets.skipped
    assert [operator.op.type() for operator in targets.operators] == [
        'conv2d',
        'depthwise_conv2d',
        'conv2d',
        'conv2d_transpose',
        'depthwise_conv2d_transpose',
        'matmul_v2',
    ]
    for operator in targets.operators:
        assert operator.op.all_outputs()[0].name() == operator.output
        assert operator.tensors == (*operator.activations, operator.weight)
        assert set(operator.tensors) == {var.name() for var in operator.op.all_inputs()}
    activations = targets.activations
    assert activations[0] == 'x' and len(activations) == 5 == len(set(activations))  # one feeds two convolutions


def test_the_axis_is_that_of_the_output_channels() -> None:
    """Where the table's axis of an ungrouped weight is cut, the output loses channels."""
    graph = GraphWrapper(network())
    for operator in find_targets(graph).operators:
        assert operator.weight is not None and operator.axis is not None
        sizes, groups = graph.var(operator.weight).shape(), operator.op.attr('groups') or 1
        channels = operator.op.all_outputs()[0].shape()[1]
        assert channels == sizes[operator.axis] * (groups if 'transpose' in operator.op.type() else 1)


def test_full_quantization_takes_operators_without_weights() -> None:
    targets = find_targets(network(), full=True)
    taken = [operator.op.type() for operator in targets.operators]
    assert {'elementwise_add', 'pool2d', 'flatten_contiguous_range'} <= set(taken)
    assert targets.weights == WEIGHTS
    total = next(operator for operator in targets.operators if operator.op.type() == 'elementwise_add')
    assert len(total.activations) == 2 and total.weight is None
    # The bias is a parameter: its addition stays in float, and the report says so.
    assert list(targets.skipped.values()) == ["its input 'linear_0.b_0' is a parameter"]


def test_products_of_activations_are_for_full_quantization() -> None:
    graph = GraphWrapper(network())
    flat = next(op.inputs('X')[0] for op in graph.ops() if op.type() == 'matmul_v2')
    e = Expressions(Insertion(graph))
    product = e.matmul(flat, flat, transpose_y=True).name()
    graph = GraphWrapper(graph.program)
    assert find_targets(graph).skipped == {
        product: "its input 'Y' is no parameter (full quantization takes products of activations)"
    }
    found = {operator.output: operator for operator in find_targets(graph, full=True).operators}
    assert found[product].activations == (flat.name(),) and found[product].weight is None


def test_a_transposed_matrix_has_its_channels_on_the_other_axis() -> None:
    graph = GraphWrapper(network())
    y = graph.ops()[-1].all_outputs()[0]
    e = Expressions(Insertion(graph))
    output = e.matmul(y, graph.var('fc'), transpose_y=True).name()
    targets = find_targets(graph.program)
    assert {operator.output: operator.axis for operator in targets.operators}[output] == 0
    assert targets.weights['fc'] is None  # its two readers have different axes: one scale for both


def test_what_the_user_excludes_stays_in_float() -> None:
    program = network()
    by_weight = find_targets(program, skip_tensor_list=['depth'])
    assert set(by_weight.weights) == set(WEIGHTS) - {'depth'}
    assert reasons(by_weight) == "it reads 'depth', which skip_tensor_list names"
    by_input = find_targets(program, skip_tensor_list='x')
    assert set(by_input.weights) == set(WEIGHTS) - {'conv'}
    by_pattern = find_targets(program, not_quant_pattern=['up_'])
    assert set(by_pattern.weights) == set(WEIGHTS) - {'up_depth'}
    assert reasons(by_pattern) == "'up_' of not_quant_pattern is part of 'up_depth'"
    assert set(find_targets(program, types=['matmul_v2']).weights) == {'fc'}
    with pytest.raises(GraphError, match="'dept', which is no tensor; did you mean 'depth'"):
        find_targets(program, skip_tensor_list=['dept'])
    with pytest.raises(ConfigError, match='empty string'):
        find_targets(program, not_quant_pattern=[''])


def test_name_scopes_are_matched_where_paddle_keeps_them(ir: str) -> None:
    main = paddle.static.Program()
    with paddle.static.program_guard(main, paddle.static.Program()), paddle.static.name_scope('skip_quant'):
        nn.Conv2D(3, 4, 3, bias_attr=False)(paddle.static.data('x', [-1, 3, 8, 8], 'float32'))
    skipped = reasons(find_targets(main))
    assert skipped == ("'skip_quant' of not_quant_pattern is part of '/skip_quant/'" if ir == 'legacy' else '')
    # PIR keeps the path of the layer instead.
    path = '/Conv2D' if ir == 'pir' else 'conv2d_'
    assert path in reasons(find_targets(main, not_quant_pattern=[path]))


def test_teachers_and_losses_stay_in_float() -> None:
    graph = GraphWrapper(network())
    operators = find_targets(graph).operators
    mark_teacher(operators[0].op, 'teacher_')
    mark_distillation(operators[1].op, 'l2')
    targets = find_targets(graph.program)
    assert targets.skipped == {
        operators[0].output: "it belongs to the merged teacher 'teacher_'",
        operators[1].output: "it belongs to the distillation loss 'l2'",
    }
    assert set(targets.weights) == set(WEIGHTS) - {'conv', 'depth'}


def test_unknown_types_are_refused() -> None:
    with pytest.raises(ConfigError, match="type 'conv3d' cannot be quantized; known: conv2d, .*did you mean 'conv2d'"):
        find_targets(network(), types=['conv3d'])
    with pytest.raises(ConfigError, match="'pool2d' cannot .* taken by full quantization only"):
        find_targets(network(), types=['pool2d'])
    assert {o.op.type() for o in find_targets(network(), types=['pool2d'], full=True).operators} == {'pool2d'}


@pytest.mark.parametrize('name', ['MobileNet', 'ResNet18', 'VisionTransformer'])
def test_networks_of_the_zoo_are_covered(name: str) -> None:
    """Every parameter with two axes or more that an operator multiplies with is found, or said to be left."""
    main = paddle.static.Program()
    kwargs = {} if name == 'VisionTransformer' else {'scale': 0.125}
    with paddle.static.program_guard(main, paddle.static.Program()), paddle.utils.unique_name.guard():
        slim.models.create(name, **kwargs).net(paddle.static.data('x', [-1, 3, 32, 32], 'float32'), 10)
    graph = GraphWrapper(main)
    targets = find_targets(graph)
    multiplied = {
        var.name()
        for op in graph.ops()
        if op.type() in TARGETS
        for var in op.all_inputs()
        if var.is_parameter() and len(var.shape()) > 1
    }
    assert set(targets.weights) == multiplied and multiplied
    assert all(axis is not None for axis in targets.weights.values())
    assert all('no parameter' in reason for reason in targets.skipped.values())


def test_rows_of_the_table_are_consistent() -> None:
    for row in TARGETS.values():
        assert row.weight in row.slots and row.axis is not None
    assert all(row.weight is None for row in FULL.values())


def test_full_quantization_leaves_biases_alone_and_can_be_exported(tmp_path: Path) -> None:
    net = nets.conv_net()
    feeds = [net.feed]
    done = slim.quant.quantize_model(
        slim.runtime.InferenceModel(*net.model), feeds, tmp_path / 'full', is_full_quantize=True
    )
    graph = GraphWrapper(done.model.program)
    biases = {var.name() for var in graph.all_parameters() if len(var.shape()) == 1}
    readers = [op for name in biases for op in graph.var(name).outputs() if op.type() == 'reshape2']
    reshaped = {var.name() for op in readers for var in op.all_outputs()}
    assert not {name for reads in done.spec.operators.values() for name in reads} & {*biases, *reshaped}
    types = {op.type() for op in graph.ops() if op.all_outputs()[0].name() in done.spec.operators}
    assert {'conv2d', 'elementwise_add', 'pool2d'} <= types
    assert done.exported is not None
