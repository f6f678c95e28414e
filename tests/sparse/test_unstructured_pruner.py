"""The pruner's names, what they do, what they refuse, and that rules of one's own take part."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, store_array
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.prune.unstructured_pruner import UnstructuredPruner, _get_skip_params
from tests.sparse.sparse_net import PRUNABLE, SIZES, SparseNet

TOTAL = sum(SIZES.values())


@pytest.fixture
def net() -> SparseNet:
    return SparseNet()


def _all_zeros(net: SparseNet) -> int:
    return sum(net.zeros(name) for name in PRUNABLE)


def test_names_of_paddleslim(net: SparseNet) -> None:
    assert slim.prune.UnstructuredPruner is slim.sparse.UnstructuredPruner is UnstructuredPruner
    assert slim.prune.unstructured_pruner.GMPUnstructuredPruner is slim.prune.GMPUnstructuredPruner
    skipped = _get_skip_params(net.main)
    names = {var.name() for var in GraphWrapper(net.main).all_parameters()}
    assert names - skipped == set(PRUNABLE)


def test_built_before_the_startup_program_and_exact(net: SparseNet) -> None:
    pruner = slim.prune.UnstructuredPruner(net.main, 'ratio', 0.55, scope=net.scope, place=paddle.CPUPlace())
    assert set(pruner.masks) == set(PRUNABLE)
    with pytest.raises(GraphError, match='run the startup program'):
        pruner.step()
    net.start()
    before = {name: net.value(name) for name in PRUNABLE}
    pruner.step()
    flat = np.sort(np.abs(np.concatenate([before[name].reshape(-1) for name in PRUNABLE])))
    assert pruner.threshold == flat[round(0.55 * TOTAL) - 1]
    for name in PRUNABLE:
        np.testing.assert_array_equal(
            net.value(name), np.where(np.abs(before[name]) > pruner.threshold, before[name], 0)
        )
    assert _all_zeros(net) == round(0.55 * TOTAL)


def test_equal_weights_are_pruned_to_the_last_one(net: SparseNet) -> None:
    net.start()
    for name in PRUNABLE:
        store_array(net.scope, name, np.full(net.value(name).shape, -0.5, 'float32'))
    slim.prune.UnstructuredPruner(net.main, ratio=0.3, scope=net.scope).step()
    assert _all_zeros(net) == round(0.3 * TOTAL)


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'local_sparsity': True}, {name: round(0.5 * size) for name, size in SIZES.items()}),
        ({'prune_params_type': 'conv1x1_only'}, {'point': 64, 'conv': 0, 'depth': 0, 'fc': 0}),
        (
            {'skip_params_func': lambda program: _get_skip_params(program) | {'conv', 'depth', 'point'}},
            {'fc': 32, 'conv': 0},
        ),
        ({'layer_ratios': {'fc': 0.0, 'conv': 0.25}}, {'fc': 0, 'conv': 54, 'point': 64, 'depth': 72}),
        ({'layer_ratios': 'heuristic'}, slim.sparse.layer_counts(SIZES, 0.5, 'heuristic')),
        ({'pattern': '2:4'}, {'conv': 8 * 9, 'point': 64, 'depth': 0, 'fc': 32}),
        ({'pattern': '1:4'}, {'conv': 2 * 8 * 9, 'point': 96, 'depth': 0, 'fc': 48}),
        ({'sparse_block': [4, 1], 'local_sparsity': True}, {'conv': 108, 'point': 64, 'depth': 72, 'fc': 32}),
    ],
)
def test_what_each_option_leaves(net: SparseNet, options: dict[str, Any], expected: dict[str, int]) -> None:
    net.start()
    pruner = slim.prune.UnstructuredPruner(net.main, ratio=0.5, scope=net.scope, **options)
    for number in range(2):
        net.train(number)
        pruner.step()
    net.train(2)
    assert {name: net.zeros(name) for name in expected} == expected


def test_moving_statistics_are_never_pruned(net: SparseNet) -> None:
    pruner = slim.prune.UnstructuredPruner(net.main, skip_params_func=lambda program: set(), scope=net.scope)
    names = {var.name() for var in GraphWrapper(net.main).all_parameters()}
    assert names - set(pruner.masks) == {'batch_norm2d_0.w_1', 'batch_norm2d_0.w_2'}


def test_patterns_run_along_the_input_channels(net: SparseNet) -> None:
    net.start()
    slim.prune.UnstructuredPruner(net.main, pattern='2:4', scope=net.scope).step()
    assert (np.count_nonzero(net.value('point').reshape(16, 2, 4), axis=2) == 2).all()
    assert (np.count_nonzero(net.value('fc').reshape(4, 4, 4), axis=1) == 2).all()


def test_a_threshold_holds_at_every_step(net: SparseNet) -> None:
    net.start()
    pruner = slim.prune.UnstructuredPruner(net.main, mode='threshold', threshold=0.05, scope=net.scope)
    zeros = 0
    for number in range(3):
        net.train(number)
        trained = {name: net.value(name) for name in PRUNABLE}
        pruner.step()
        for name in PRUNABLE:
            np.testing.assert_array_equal(net.value(name), np.where(np.abs(trained[name]) < 0.05, 0, trained[name]))
        assert zeros <= _all_zeros(net)
        zeros = _all_zeros(net)
    assert zeros > 0


def test_gmp_raises_the_ratio_as_scheduled(net: SparseNet) -> None:
    configs = {
        'stable_iterations': 11,
        'pruning_iterations': 22,
        'tunning_iterations': 11,
        'resume_iteration': 0,
        'pruning_steps': 2,
        'initial_ratio': 0.2,
    }
    net.start()
    pruner = slim.prune.make_unstructured_pruner(
        net.main, {'ratio': 0.8, **configs, 'pruning_strategy': 'gmp'}, scope=net.scope
    )
    assert isinstance(pruner, slim.prune.GMPUnstructuredPruner)
    seen = []
    for number in range(40):
        net.train(number)
        pruner.step()
        seen.append(_all_zeros(net))
    middle = 0.2 + 0.6 * ((0.5 - 1) ** 3 + 1)
    ratios = [0.0] * 11 + [0.2] * 11 + [middle] * 11 + [0.8] * 7
    assert seen == [round(ratio * TOTAL) for ratio in ratios]
    assert pruner.cur_iteration == 40
    resumed = slim.prune.GMPUnstructuredPruner(
        SparseNet().main, 0.8, scope=paddle.static.Scope(), configs={**configs, 'resume_iteration': 25}
    )
    assert resumed.ratio == middle


def test_a_rule_of_ones_own(net: SparseNet) -> None:
    class HalfOfTheLargest(slim.prune.UnstructuredPruner):
        calls = 0

        def update_threshold(self) -> None:
            self.calls += 1
            self.threshold = max(float(np.abs(net.value(name)).max()) for name in self.masks) / 2

    net.start()
    pruner = HalfOfTheLargest(net.main, scope=net.scope)
    for number in range(2):
        net.train(number)
        before = {name: net.value(name) for name in PRUNABLE}
        pruner.step()
        for name in PRUNABLE:
            np.testing.assert_array_equal(
                net.value(name), np.where(np.abs(before[name]) < pruner.threshold, 0, before[name])
            )
    assert pruner.calls == 2


def test_masks_of_ones_own() -> None:
    """A subclass that masks nothing in the program: weights come back, and step() zeroes them."""
    seen = []

    class Outside(slim.prune.UnstructuredPruner):
        def mask_parameters(self, parameters: Any, masks: Any, program: Any) -> None:
            seen.append(([GraphWrapper.name_of(item) for item in parameters], list(masks)))

    net = SparseNet()
    pruner = Outside(net.main, scope=net.scope)
    net.start()
    assert seen == [(list(pruner.masks), [f'{name}_mask' for name in pruner.masks])]
    pruner.step()
    net.train(0)
    assert _all_zeros(net) < round(0.55 * TOTAL)
    pruner.step()
    assert _all_zeros(net) == round(0.55 * TOTAL)


def test_a_program_without_optimizer_is_pruned_in_the_scope() -> None:
    net = SparseNet(train=False)
    net.start()
    ops = len(GraphWrapper(net.main).ops())
    pruner = slim.prune.UnstructuredPruner(net.main, ratio=0.5, scope=net.scope)
    pruner.step()
    assert len(GraphWrapper(net.main).ops()) == ops
    assert _all_zeros(net) == round(0.5 * TOTAL)
    store_array(net.scope, 'fc', np.ones([16, 4], 'float32'))
    pruner.update_params()
    np.testing.assert_array_equal(net.value('fc'), net.value('fc_mask'))


def test_regrowth_brings_weights_back_with_their_values(net: SparseNet) -> None:
    net.start()
    pruner = slim.prune.UnstructuredPruner(
        net.main, ratio=0.5, scope=net.scope, regrowth=True, schedule=slim.sparse.Constant(interval=1)
    )
    dense = {name: net.value(name) for name in PRUNABLE}
    pruner.step()
    left = {name: net.value(f'{name}_mask') == 0 for name in PRUNABLE}
    for name in PRUNABLE:  # what has stayed shrinks below what has left
        store_array(net.scope, name, net.value(name) * np.float32(1e-3))
    pruner.step()
    for name in PRUNABLE:
        back = left[name] & (net.value(f'{name}_mask') == 1)
        np.testing.assert_array_equal(net.value(name)[back], dense[name][back])
    assert _all_zeros(net) == round(0.5 * TOTAL)
    assert any((left[name] & (net.value(f'{name}_mask') == 1)).any() for name in PRUNABLE)
    pruner.set_static_masks()
    zeros = {name: net.value(name) == 0 for name in PRUNABLE}
    net.train(0)
    assert all(not net.value(name)[zeros[name]].any() for name in PRUNABLE)


def test_static_masks_for_fine_tuning(net: SparseNet) -> None:
    net.start()
    sparse = np.where(np.arange(64).reshape(16, 4) % 3 == 0, 0, 1).astype('float32')
    store_array(net.scope, 'fc', sparse)
    pruner = slim.prune.UnstructuredPruner(net.main, scope=net.scope)
    pruner.set_static_masks()
    for number in range(3):
        net.train(number)
        np.testing.assert_array_equal(net.value('fc') != 0, sparse != 0)


def test_figures(net: SparseNet) -> None:
    net.start()
    pruner = slim.prune.UnstructuredPruner(net.main, ratio=0.5, scope=net.scope)
    pruner.step()
    parameters = {var.name(): net.value(var.name()) for var in GraphWrapper(net.main).all_parameters()}
    weights = sum(array.size for array in parameters.values())
    zeros = sum(int((array == 0).sum()) for array in parameters.values())
    found = pruner.sparsity()
    assert found.prunable == round(0.5 * TOTAL) / TOTAL
    assert found.total == zeros / weights == pruner.total_sparse(net.main, net.scope)
    assert pruner.total_sparse_conv1x1(net.main, net.scope) == net.zeros('point') / 128
    with paddle.static.scope_guard(net.scope):
        assert slim.prune.UnstructuredPruner.total_sparse(net.main) == zeros / weights
    assert pruner.sparse_by_layer(net.main) == {name: (array == 0).mean() for name, array in parameters.items()}
    flat = np.sort(np.abs(np.concatenate([array.reshape(-1) for array in parameters.values()])))
    assert pruner.summarize_weights(net.main, 0.9) == flat[int(0.9 * weights - 1)]
    assert f'fc: {net.zeros("fc")} of 64' in str(found)


def test_a_second_pruner_goes_on_with_the_masks_of_the_program(net: SparseNet) -> None:
    net.start()
    slim.prune.UnstructuredPruner(net.main, ratio=0.5, scope=net.scope).step()
    masks = {name: net.value(f'{name}_mask') for name in PRUNABLE}
    ops = len(GraphWrapper(net.main).ops())
    second = slim.prune.UnstructuredPruner(net.main, ratio=0.7, scope=net.scope)
    assert len(GraphWrapper(net.main).ops()) == ops
    second.step()
    assert all(not (net.value(f'{name}_mask') & (mask == 0)).any() for name, mask in masks.items())
    assert _all_zeros(net) == round(0.7 * TOTAL)


def test_masks_follow_parameters_that_are_cut(net: SparseNet) -> None:
    net.start()
    pruner = slim.prune.UnstructuredPruner(net.main, ratio=0.5, scope=net.scope)
    pruner.step()
    net.train(0)
    with paddle.static.scope_guard(net.scope):
        small, _, _ = slim.prune.Pruner().prune(net.main, net.scope, ['point'], [0.25], paddle.CPUPlace())
    assert net.value('point').shape == net.value('point_mask').shape == (12, 8, 1, 1)
    net.main = small
    net.train(1)
    for name in PRUNABLE:
        assert not net.value(name)[net.value(f'{name}_mask') == 0].any()
    with pytest.raises(GraphError, match='new pruner'):
        pruner.ratio = 0.7
        pruner.step()
    slim.prune.UnstructuredPruner(small, ratio=0.75, scope=net.scope).step()
    assert _all_zeros(net) == round(0.75 * sum(net.value(name).size for name in PRUNABLE))


def test_an_empty_layer_is_named(net: SparseNet, caplog: pytest.LogCaptureFixture) -> None:
    net.start()
    store_array(net.scope, 'fc', net.value('fc') * np.float32(1e-6))
    slim.prune.UnstructuredPruner(net.main, ratio=0.5, scope=net.scope).step()
    assert any("nothing is left of 'fc'" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'mode': 'ratios'}, 'mode is one of'),
        ({'ratio': 55}, 'ratio is a number from 0 to 1'),
        ({'threshold': -1.0}, 'threshold is a magnitude'),
        ({'prune_params_type': 'conv3x3_only'}, 'prune_params_type'),
        ({'sparse_block': [0, 1]}, 'two positive whole numbers'),
        ({'mode': 'threshold', 'local_sparsity': True}, "need mode='ratio'"),
        ({'mode': 'threshold', 'regrowth': True}, 'nothing comes back'),
        ({'pattern': '4:4'}, '0 < N < M'),
        ({'pattern': '2:4', 'sparse_block': [4, 1]}, 'a pattern excludes'),
        ({'layer_ratios': {'conv9': 0.5}}, "'conv9', which is not pruned"),
        ({'layer_ratios': 'heuristics'}, 'heuristic'),
        ({'skip_params_func': lambda program: set(PRUNABLE) | _get_skip_params(program)}, 'nothing is left to prune'),
    ],
)
def test_refusals_leave_the_program_alone(net: SparseNet, options: dict[str, Any], message: str) -> None:
    GraphWrapper(net.main)  # names what has no name yet
    before = str(net.main)
    with pytest.raises(ConfigError, match=message):
        slim.prune.UnstructuredPruner(net.main, scope=net.scope, **options)
    assert str(net.main) == before


def test_the_name_of_a_mask_may_be_taken(net: SparseNet) -> None:
    from paddleslim_ng.core.insertion import add_state

    add_state(GraphWrapper(net.main), 'fc_mask', [3], 'float32')
    before = str(net.main)
    with pytest.raises(GraphError, match=r"'fc_mask' that is no mask"):
        slim.prune.UnstructuredPruner(net.main, scope=net.scope)
    assert str(net.main) == before


def test_make_unstructured_pruner(net: SparseNet) -> None:
    args = argparse.Namespace(
        pruning_mode='threshold',
        threshold=0.2,
        lr=0.1,
        sparse_block=[1, 1],
        local_sparsity=False,
        prune_params_type=None,
    )
    pruner = slim.prune.make_unstructured_pruner(net.main, args, scope=net.scope)
    assert pruner.options.mode == 'threshold' and pruner.threshold == 0.2
    with pytest.raises(ConfigError, match="unknown option 'ratios'.*did you mean 'ratio'"):
        slim.prune.make_unstructured_pruner(net.main, {'ratios': 0.5})
    with pytest.raises(ConfigError, match='pruning_strategy'):
        slim.prune.make_unstructured_pruner(net.main, {'pruning_strategy': 'gnp'})
    with pytest.raises(ConfigError, match='does not go with a threshold'):
        slim.prune.make_unstructured_pruner(net.main, {'pruning_mode': 'threshold', 'pruning_strategy': 'gmp'})
    with pytest.raises(ConfigError, match='does not go with a pattern'):
        slim.prune.make_unstructured_pruner(net.main, {'pattern': '2:4', 'pruning_strategy': 'gmp'})
    with pytest.raises(ConfigError, match='needs configs'):
        slim.prune.GMPUnstructuredPruner(net.main)


def test_the_skip_function_of_the_documentation(net: SparseNet) -> None:
    """Scripts bring this function along; it gives the default choice."""

    def skip(program: Any) -> set[str]:
        skip_params = set()
        graph = slim.core.GraphWrapper(program)
        for op in graph.ops():
            if 'norm' in op.type() and 'grad' not in op.type():
                for input in op.all_inputs():
                    skip_params.add(input.name())
        for param in program.all_parameters():
            if len(param.shape) == 1:
                skip_params.add(param.name)
        return skip_params

    pruner = slim.prune.UnstructuredPruner(net.main, skip_params_func=skip, scope=net.scope)
    assert set(pruner.masks) == set(PRUNABLE)
