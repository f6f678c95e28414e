"""Pruners and distillers made from a configuration do what slim.prune and slim.dist do."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.compress.configuration import Registry, load_config
from paddleslim_ng.compress.configuration.plugin_options import Criterion, LossName
from paddleslim_ng.compress.last_layers import last_layers
from paddleslim_ng.compress.plugins import FSPDistiller, L2Distiller, LossDistiller, SoftLabelDistiller, StructurePruner
from paddleslim_ng.core import GraphWrapper, load_array
from paddleslim_ng.dist import LOSSES, merge
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.prune import CRITERION, Pruner
from paddleslim_ng.quant.aware_config import read_config
from tests.dist.nets import Net, batch


@pytest.fixture
def networks() -> tuple[Net, Any, Any]:
    """Return a student with a teacher of other width merged into it, the mapping, and the teacher."""
    student, teacher = Net(3), Net(5, 't_', seed=2)
    merged = merge(
        teacher.main, student.main, {'image': 'image'}, scope=student.scope, teacher_scope=teacher.scope, check=False
    )
    return student, merged, teacher


def values(net: Net, *fetches: Any) -> list[Any]:
    found: list[Any] = slim.Executor().run(
        slim.core.clone_program(net.main, for_test=True), batch(), list(fetches), scope=net.scope
    )
    return found


def soften(logits: Any, temperature: float) -> Any:
    exponents = np.exp(logits / temperature - np.max(logits / temperature, -1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def test_last_layers_are_the_logits(networks: Any) -> None:
    student, merged, teacher = networks
    graph = GraphWrapper(student.main)
    assert last_layers(graph) == [GraphWrapper.name_of(student.logits)]
    assert last_layers(graph, 'teacher_') == [GraphWrapper.name_of(merged[teacher.logits])]
    with pytest.raises(GraphError, match="the teacher 'no_' has no convolution"):
        last_layers(graph, 'no_')


@pytest.mark.parametrize('named', [True, False])
def test_l2_is_the_mean_square(networks: Any, named: bool) -> None:
    student, merged, teacher = networks
    maps = [GraphWrapper.name_of(item) for item in (student.logits, teacher.logits)] if named else []
    loss = L2Distiller(*maps).loss(student.main, merged)
    got, mine, theirs = values(student, loss, student.logits, merged[teacher.logits])
    np.testing.assert_allclose(got, np.mean((mine - theirs) ** 2), rtol=1e-5)


def test_soft_label_takes_both_temperatures(networks: Any) -> None:
    student, merged, teacher = networks
    distiller = SoftLabelDistiller(student_temperature=2.0, teacher_temperature=4.0, scale_by_temperature=True)
    got, mine, theirs = values(
        student, distiller.loss(student.main, merged.prefix), student.logits, merged[teacher.logits]
    )
    want = -np.mean(np.sum(soften(theirs, 4.0) * np.log(soften(mine, 2.0)), -1)) * 8
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_fsp_adds_up_its_pairs() -> None:
    student, teacher = Net(3), Net(3, 't_', seed=2)
    merged = merge(
        teacher.main, student.main, {'image': 'image'}, scope=student.scope, teacher_scope=teacher.scope, check=False
    )
    mine, theirs = (GraphWrapper.name_of(net.features) for net in (student, teacher))
    distiller = FSPDistiller([[mine, mine], [mine, mine]], [[theirs, theirs], [theirs, theirs]])
    got, s, t = values(student, distiller.loss(student.main, merged), student.features, merged[teacher.features])

    def flow(maps: Any) -> Any:
        flat = maps.reshape(*maps.shape[:2], -1)
        return flat @ flat.transpose(0, 2, 1) / flat.shape[-1]

    np.testing.assert_allclose(got, 2 * np.mean((flow(s) - flow(t)) ** 2), rtol=1e-4)


def test_other_losses_take_their_options(networks: Any) -> None:
    student, merged, teacher = networks
    made = LossDistiller('soft_label', {'teacher_temperature': 3.0}).loss(student.main, merged)
    same = SoftLabelDistiller(teacher_temperature=3.0).loss(student.main, merged)
    got, want = values(student, made, same)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    with pytest.raises(ConfigError, match="no option 'temprature'; did you mean 'teacher_temperature'"):
        LossDistiller('soft_label', {'temprature': 3.0})
    with pytest.raises(ConfigError, match="unknown loss 'fsp'"):
        LossDistiller('fsp')


def test_unknown_tensors_are_named(networks: Any) -> None:
    student, merged, teacher = networks
    known = GraphWrapper.name_of(teacher.logits)
    with pytest.raises(GraphError, match=f"no tensor '{known}x'; did you mean '{known}'"):
        L2Distiller(None, known + 'x').loss(student.main, merged)
    with pytest.raises(GraphError, match='by its prefix'):
        L2Distiller().loss(student.main, {known: merged[teacher.logits]})


def test_structure_pruner_scores_by_parameter() -> None:
    net = Net(6)
    conv = load_array(net.scope, 'conv')
    made = StructurePruner(criterions={'*': 'l2_norm', 'con.': 'l0_norm'}).make(2)
    assert made.round_to == 2
    conv[:] = 0.5
    conv[[1, 4], 0] = 0.0
    conv[[1, 4], 1] = 90.0
    slim.core.store_array(net.scope, 'conv', conv)
    pruned, backup, _ = made.prune(net.main, net.scope, ['conv'], [0.34], param_backup=True, verify=False)
    assert load_array(net.scope, 'conv').shape[0] == 4
    np.testing.assert_array_equal(load_array(net.scope, 'conv'), conv[[0, 2, 3, 5]])
    other = Net(6)
    slim.core.store_array(other.scope, 'conv', conv)
    StructurePruner().make().prune(other.main, other.scope, ['conv'], [0.34], verify=False)
    assert (load_array(other.scope, 'conv')[:, 1] == 90.0).any()
    assert isinstance(StructurePruner().make(), Pruner)
    with pytest.raises(ConfigError, match='pruning_axis is 0'):
        StructurePruner({'*': 1})


def test_names_of_choices_are_those_that_exist() -> None:
    """The option models list names themselves, so that a file is checked without loading Paddle."""
    from typing import get_args

    from paddleslim_ng.compress.configuration import quantization_options as quantization
    from paddleslim_ng.compress.configuration import sparse_options as sparse
    from paddleslim_ng.prune import IDX_SELECTOR
    from paddleslim_ng.quant import ACTIVATION_TYPES, OBSERVERS, ROUND_TYPES, WEIGHT_TYPES
    from paddleslim_ng.quant.aware_types import WEIGHT_QUANTIZERS
    from paddleslim_ng.sparse.layer_ratios import PROTOCOLS

    assert set(get_args(Criterion)) == set(CRITERION)
    assert set(get_args(LossName)) == set(LOSSES) - {'fsp', 'hinton'}
    assert set(get_args(quantization.Algorithm)) == set(OBSERVERS)
    assert set(get_args(quantization.WeightType)) == set(WEIGHT_TYPES)
    assert set(get_args(quantization.ActivationType)) == set(ACTIVATION_TYPES)
    assert set(get_args(quantization.AwareWeightType)) == {key for key in WEIGHT_QUANTIZERS if 'lsq' not in key}
    fields = quantization.PostTrainingQuantOptions.model_fields
    assert set(get_args(fields['round_type'].annotation)) == set(ROUND_TYPES)
    assert set(sparse._PROTOCOLS) == set(PROTOCOLS)
    assert set(
        get_args(Registry().find('pruners', 'StructurePruner').options.model_fields['idx_selector'].annotation)
    ) == set(IDX_SELECTOR)


def test_shared_plugins_are_one_object() -> None:
    """Options of every plugin class are what its constructor takes."""
    paddle.enable_static()
    config = load_config(
        {
            'version': 1.0,
            'pruners': {'by_norm': {'class': 'StructurePruner', 'criterions': {'*': 'l2_norm', 'fc': 'l1_norm'}}},
            'strategies': {
                'first': {'class': 'UniformPruneStrategy', 'pruner': 'by_norm', 'target_ratio': 0.3},
                'second': {'class': 'UniformPruneStrategy', 'pruner': 'by_norm', 'start_epoch': 2, 'round_to': 4},
            },
            'compressor': {'epoch': 3, 'strategies': ['second', 'first']},
        }
    )
    second, first = config.create_strategies()
    assert (second.name, first.name) == ('second', 'first')
    assert (first.target_ratio, second.start_epoch, second.round_to) == (0.3, 2, 4)
    assert first.pruner.round_to == 8


@pytest.mark.parametrize('section', ['pruners', 'distillers', 'quantizers'])
def test_every_plugin_class_takes_its_options(section: str) -> None:
    needed = {
        'FSPDistiller': {'student_pairs': [['a', 'b']], 'teacher_pairs': [['c', 'd']]},
        'LossDistiller': {'loss': 'skd'},
    }
    for name, plugin in Registry().classes(section).items():
        made = plugin.create(plugin.options(**needed.get(name, {})))
        assert type(made).__name__ == name
        if section == 'quantizers':
            assert read_config(made.arguments()['config'])


def test_strategies_take_their_options() -> None:
    """Names and defaults in a strategy's constructor are those of its options."""
    from paddleslim_ng.compress import Strategy, strategies

    needed = {
        'DistillationStrategy': {'distillers': [L2Distiller()]},
        'GreedyPruneStrategy': {'max_loss': 0.1},
        'AlternationStrategy': {'strategies': [strategies.UniformPruneStrategy()]},
    }
    there = [plugin for plugin in Registry().classes('strategies').values() if hasattr(strategies, plugin.name)]
    assert {'UniformPruneStrategy', 'UnstructuredPruneStrategy'} <= {plugin.name for plugin in there}
    for plugin in there:
        given = needed.get(plugin.name, {})
        made = plugin.create(plugin.options(**given, start_epoch=0 if 'PostTraining' in plugin.name else 3))
        assert isinstance(made, Strategy)
        signature = inspect.signature(type(made)).parameters
        if 'options' in signature:
            continue
        defaults = {name: field for name, field in plugin.options.model_fields.items() if not field.is_required()}
        for name, field in defaults.items():
            default = signature[name].default
            assert (list(default) if isinstance(default, tuple) else default) == field.default, f'{plugin.name}.{name}'
