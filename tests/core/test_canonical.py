"""The same layer is the same operators, slots and attributes on every IR, and the rows fit Paddle's operators."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.core.op_table import ROWS, canonical_slot, canonical_type, check_slots, grad_slot, row_for
from tests.core.layers_table import CASES
from tests.core.support import build

OPTIMIZERS = ('SGD', 'Momentum', 'Adagrad', 'Adadelta', 'RMSProp', 'Adam', 'AdamW', 'Adamax', 'NAdam', 'RAdam', 'Lamb')


def slots(op: Any, names: list[str], read: Any) -> str:
    shown = [name + (f'*{len(read(name))}' if len(read(name)) > 1 else '') for name in sorted(names)]
    return ' '.join(name for name in shown if not name.startswith('XShape'))


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and not isinstance(found, str) and found is not None:
        return bool(found == pytest.approx(wanted, rel=1e-5))
    return bool(found == wanted)


@pytest.mark.parametrize('name', CASES)
def test_layer_is_the_same_everywhere(name: str) -> None:
    case = CASES[name]
    net = build(lambda x: {'y': case.build(x)})
    ops = GraphWrapper(net.main).ops()
    assert [op.type() for op in ops] == [op.type for op in case.ops]
    for op, wanted in zip(ops, case.ops):
        assert slots(op, op.input_slots(), op.inputs) == wanted.ins
        assert slots(op, op.output_slots(), op.outputs) == wanted.outs
        found = {key: op.attr(key) for key in wanted.attrs}
        assert {k: v for k, v in found.items() if not same(v, wanted.attrs[k])} == {}


GRADS = {
    'conv2d_grad': ('Filter Input Output@GRAD', 'Filter@GRAD Input@GRAD'),
    'batch_norm_grad': ('SavedMean SavedVariance Scale X Y@GRAD', 'Bias@GRAD Scale@GRAD X@GRAD'),
    'relu_grad': ('Out Out@GRAD', 'X@GRAD'),
    'pool2d_grad': ('Out Out@GRAD X', 'X@GRAD'),
    'reduce_mean_grad': ('Out@GRAD X', 'X@GRAD'),
    'layer_norm_grad': ('Mean Scale Variance X Y@GRAD', 'Bias@GRAD Scale@GRAD X@GRAD'),
    'dropout_grad': ('Mask Out@GRAD', 'X@GRAD'),
    'matmul_v2_grad': ('Out@GRAD X Y', 'X@GRAD Y@GRAD'),
    'elementwise_add_grad': ('Out@GRAD X Y', 'X@GRAD Y@GRAD'),
    'softmax_with_cross_entropy_grad': ('Label Loss@GRAD Softmax', 'Logits@GRAD'),
    'lookup_table_v2_grad': ('Ids Out@GRAD W', 'W@GRAD'),
    'concat_grad': ('Out@GRAD X', 'X@GRAD'),
    'slice_grad': ('Input Out@GRAD', 'Input@GRAD'),
    'prelu_grad': ('Alpha Out@GRAD X', 'Alpha@GRAD X@GRAD'),
}


def test_gradient_operators_take_the_names_of_the_forward_ones() -> None:
    def make(x: Any) -> dict[str, Any]:
        word = paddle.static.data('i', [-1, 3], 'int64')
        h = nn.Conv2D(4, 2, 3)(nn.Conv2D(4, 4, 1)(x))
        h = nn.PReLU(2)(F.relu(nn.BatchNorm2D(2)(h)))
        h = paddle.mean(F.max_pool2d(h, 2), [2, 3])
        h = paddle.concat([h, h[:, 0:1], paddle.flatten(nn.Embedding(5, 2)(word), 1)], 1)
        h = nn.Linear(9, 4)(F.dropout(nn.LayerNorm(9)(h), 0.3))
        loss = F.cross_entropy(h, paddle.static.data('label', [-1, 1], 'int64'))
        paddle.static.append_backward(loss)
        return {'loss': loss}

    ops = {op.type(): op for op in reversed(GraphWrapper(build(make).main).ops())}
    for kind, (ins, outs) in GRADS.items():
        assert set(ins.split()) <= set(ops[kind].input_slots()), kind
        assert set(outs.split()) == set(ops[kind].output_slots()), kind
        assert ops[kind].is_bwd_op()
    assert ops['pool2d_grad'].attr('ksize') == [2, 2]
    assert ops['reduce_mean_grad'].attr('keep_dim') is False
    assert ops['dropout_grad'].attr('dropout_prob') in (None, pytest.approx(0.3))
    assert ops['batch_norm_grad'].attr('data_layout') == 'NCHW'
    constants = [op for op in ops.values() if op.type() == 'fill_constant' and op.all_outputs()[0].outputs()]
    assert all(reader.type() == 'reduce_mean_grad' for op in constants for reader in op.all_outputs()[0].outputs())


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_optimizer_slots_are_spelled_alike(name: str) -> None:
    if not hasattr(paddle.optimizer, name):
        pytest.skip('not in this Paddle')

    def make(x: Any) -> dict[str, Any]:
        loss = paddle.mean(nn.Linear(8, 2)(x))
        getattr(paddle.optimizer, name)(learning_rate=0.1).minimize(loss)
        return {}

    graph = GraphWrapper(build(make).main)
    updates = [op for op in graph.ops() if op.inputs('Param')]
    assert len(updates) == 2
    for op in updates:
        assert op.is_opt_op()
        assert not op.is_bwd_op()
        assert op.outputs('ParamOut')
        assert len(op.inputs('Grad')) == len(op.inputs('LearningRate')) == 1
        (parameter,) = op.inputs('Param')
        held = [v for slot in op.input_slots() if slot not in ('Param', 'Grad') for v in op.inputs(slot)]
        assert all(v.persistable() for v in held)
        assert sum(v.name().startswith(parameter.name()) for v in held) == len(held) - 1
        kept = {slot + 'Out' for slot in op.input_slots() if slot not in ('Param', 'Grad', 'LearningRate')}
        assert set(op.output_slots()) | {'Beta1PowOut' if name == 'Adamax' else 'ParamOut'} == {'ParamOut'} | kept
    if name.startswith('Adam') and name != 'Adamax':
        assert updates[0].attr('beta1') == pytest.approx(0.9)


def test_rows_are_well_formed() -> None:
    for name, row in ROWS.items():
        assert check_slots(row.operands), name
        assert check_slots(row.results), name
        carried = [slot[1:] for slot in row.operands if slot[0] == '@']
        assert len(set(carried)) == len(carried)
        assert row.operand_of('nothing') is None
        assert [row.operand_of(attribute) for attribute in carried] == [
            index for index, slot in enumerate(row.operands) if slot[0] == '@'
        ]


def test_rows_fit_paddles_operators(ir: str) -> None:
    """Every row whose operator a case builds has as many slots as Paddle's operator has operands and results."""
    if ir != 'pir':
        pytest.skip('the rows describe PIR operators')
    wrong, seen = [], set()
    for case in CASES.values():
        net = build(lambda x, case=case: {'y': case.build(x)})  # operators do not keep their program alive
        for op in net.main.global_block().ops:
            row = row_for(op.name())
            if row is None or op.name() in seen or op.name().startswith('builtin.'):
                continue
            seen.add(op.name())
            operands, results, attrs = op.get_input_names(), op.get_output_names(), set(op.get_attr_names())
            # XShape exists on legacy operators only, and trailing operands may be optional
            if len(row.operands) != len(operands) or len([r for r in row.results if r != 'XShape']) > len(results):
                wrong.append((op.name(), row.operands, operands, row.results, results))
            for index, operand in enumerate(operands):
                if canonical_slot(operand) in row.operands and row.operands[index] != canonical_slot(operand):
                    wrong.append((op.name(), row.operands, operands))
            for canonical, own in row.attrs.items():
                if own not in attrs and own not in operands:
                    wrong.append((op.name(), canonical, own, sorted(attrs)))
    assert wrong == []
    unbuilt = set(ROWS) - {name[len('pd_op.') :].rstrip('_') for name in seen}
    assert len(unbuilt) < 0.3 * len(ROWS), sorted(unbuilt)


@pytest.mark.parametrize(
    ('pir', 'canonical'),
    [
        ('pd_op.relu_', 'relu'),
        ('pd_op.add_grad', 'elementwise_add_grad'),
        ('pd_op.batch_norm_', 'batch_norm'),
        ('pd_op.unheard_of', 'unheard_of'),
        ('cinn_op.add', 'cinn_op.add'),
        ('custom_op.mine_', 'custom_op.mine_'),
    ],
)
def test_canonical_type(pir: str, canonical: str) -> None:
    assert canonical_type(pir) == canonical


def test_slot_names() -> None:
    assert canonical_slot('saved_mean') == 'SavedMean'
    forward = {'x': 'Input', 'kernel_size': '@ksize', 'out': 'Y'}
    assert grad_slot('x', forward) == 'Input'
    assert grad_slot('x_grad', forward) == 'Input@GRAD'
    assert grad_slot('out_grad', forward) == 'Y@GRAD'
    assert grad_slot('kernel_size', forward) == '@ksize'
    assert grad_slot('other_grad', {}) == 'Other@GRAD'
    assert row_for('builtin.combine') is None
