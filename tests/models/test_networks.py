"""Shapes, names and sizes of the networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array
from paddleslim_ng.errors import ConfigError

# Published numbers of trainable parameters at 1000 classes and 224 x 224 pixels. MobileNetV2 has 1,088 for the
# expansion convolution of its first block, MobileNetV3 those of Paddle's variant, and the transformer lacks a class
# token with its position (2 x 384).
COUNTS = {
    'LeNet': 5_696_876,  # nearly all in fc3; 61,706 on its own images
    'MobileNet': 4_231_976,
    'MobileNetV2': 3_504_872 + 1_088,
    'MobileNetV3Small': 2_939_958,
    'MobileNetV3Large': 5_480_206,
    'ResNet18': 11_689_512,
    'ResNet34': 21_797_672,
    'ResNet50': 25_557_032,
    'ResNet101': 44_549_160,
    'VGG16': 138_357_544,
    'ShuffleNetV2': 2_278_604,
    'DenseNet121': 7_978_856,
    'GoogLeNet': 6_998_552,
    'SqueezeNet': 1_235_496,
    'VisionTransformer': 22_050_664 - 2 * 384,
}
TINY: dict[str, dict[str, Any]] = {
    'ShuffleNetV2': {'scale': 0.25},
    'VisionTransformer': {'scale': 0.34, 'depth': 2, 'head_dim': 8},
    'VGG16': {'scale': 0.1, 'with_bn': True},
}
SLOW = ('ResNet34', 'ResNet50', 'ResNet101', 'DenseNet121', 'MobileNetV3Large')
TUTORIAL_SEPARABLE = [
    *('conv2_1', 'conv2_2', 'conv3_1', 'conv3_2', 'conv4_1', 'conv4_2', 'conv5_1'),
    *('conv5_2', 'conv5_3', 'conv5_4', 'conv5_5', 'conv5_6', 'conv6'),
]


def tiny(name: str) -> dict[str, Any]:
    return TINY.get(name, {'scale': 0.1})


def image(channels: int = 3, size: int = 224, name: str = 'image') -> Any:
    return paddle.static.data(name, [None, channels, size, size], 'float32')


def trainable(program: Any) -> dict[str, tuple[int, ...]]:
    shapes = {p.name: tuple(p.shape) for p in program.global_block().all_parameters()}
    return {name: shape for name, shape in shapes.items() if not name.endswith(('_mean', '_variance'))}


def test_every_network_is_listed_with_a_count() -> None:
    assert set(slim.models.MODELS) == set(COUNTS)


@pytest.mark.parametrize('name', COUNTS)
def test_parameter_count(name: str, fresh: Any) -> None:
    out = slim.models.create(name).net(image())
    assert tuple(out.shape) == (-1, 1000)
    assert sum(math.prod(shape) for shape in trainable(fresh.main).values()) == COUNTS[name]


@pytest.mark.parametrize(
    ('name', 'kwargs', 'count'),
    [('SqueezeNet', {'version': '1.0'}, 1_248_424), ('VGG16', {'with_bn': True}, 138_357_544 + 4_224)],
)
def test_parameter_count_of_variants(name: str, kwargs: dict[str, Any], count: int, fresh: Any) -> None:
    slim.models.create(name, **kwargs).net(image())
    assert sum(math.prod(shape) for shape in trainable(fresh.main).values()) == count


def test_parameter_count_of_lenet_on_its_own_images(fresh: Any) -> None:
    slim.models.LeNet().net(image(1, 28), class_dim=10)
    assert sum(math.prod(shape) for shape in trainable(fresh.main).values()) == 61_706


def marked(names: list[str]) -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.full) if n in SLOW else n for n in names]


@pytest.mark.parametrize('name', marked(list(COUNTS)))
def test_trains_a_step(name: str) -> None:
    scope = paddle.static.Scope()
    exe, train, val, _, outputs = slim.models.image_classification(
        name, [3, 32, 32], 10, seed=1, model_kwargs=tiny(name), scope=scope
    )
    random = np.random.RandomState(0)
    feed = {'image': random.randn(8, 3, 32, 32).astype('float32'), 'label': random.randint(0, 10, (8, 1))}
    weights = [p.name for p in train.global_block().all_parameters() if p.name.endswith('_weights')]
    before = {weight: load_array(scope, weight) for weight in weights}
    acc1, acc5, loss = exe.run(train, feed=feed, fetch_list=outputs, scope=scope)
    assert np.isfinite(loss)
    assert 0 <= acc1 <= acc5 <= 1
    after = {weight: load_array(scope, weight) for weight in weights}
    changed = [weight for weight in weights if not np.array_equal(before[weight], after[weight])]
    assert len(changed) > 0.9 * len(weights)
    assert all(np.isfinite(array).all() for array in after.values())
    first, second = (exe.run(val, feed=feed, fetch_list=outputs, scope=scope)[2] for _ in range(2))
    assert first == second


@pytest.mark.parametrize('name', marked(list(COUNTS)))
@pytest.mark.parametrize('shape', [(1, 28, 28), (3, 64, 64), (1, 8, 8)])
def test_probabilities_of_small_images(name: str, shape: tuple[int, int, int], fresh: Any) -> None:
    shape = (shape[0], *(max(size, slim.models.MODELS[name].minimum_size) for size in shape[1:]))
    x = paddle.static.data('x', [None, *shape], 'float32')
    network = slim.models.create(name, **tiny(name))
    out = network.net(input=x, class_dim=7)
    assert tuple(out.shape) == tuple(network.logits.shape) == (-1, 7)
    fresh.exe.run(fresh.startup)
    batch = np.random.RandomState(0).rand(2, *shape).astype('float32')
    result = fresh.exe.run(fresh.main, feed={'x': batch}, fetch_list=[out])[0]
    np.testing.assert_allclose(result.sum(axis=1), [1, 1], rtol=1e-5)


def test_mobilenet_names_and_shapes(fresh: Any) -> None:
    slim.models.MobileNet().net(image(1, 28), class_dim=10)
    shapes = {p.name: tuple(p.shape) for p in fresh.main.global_block().all_parameters()}
    separable = sorted(name for name in shapes if '_sep_weights' in name)
    assert separable == sorted(f'{layer}_sep_weights' for layer in TUTORIAL_SEPARABLE)
    expected = {
        'conv1_weights': (32, 1, 3, 3),
        'conv1_bn_scale': (32,),
        'conv2_1_dw_weights': (32, 1, 3, 3),
        'conv2_1_dw_bn_mean': (32,),
        'conv2_1_sep_weights': (64, 32, 1, 1),
        'conv2_1_sep_bn_offset': (64,),
        'conv2_1_sep_bn_variance': (64,),
        'conv5_6_sep_weights': (1024, 512, 1, 1),
        'conv6_sep_weights': (1024, 1024, 1, 1),
        'fc7_weights': (1024, 10),
        'fc7_offset': (10,),
    }
    assert {name: shapes[name] for name in expected} == expected


def test_mobilenet_multiply_accumulates(fresh: Any) -> None:
    slim.models.MobileNet().net(image(1, 28), class_dim=10)
    total = 0
    for op in GraphWrapper(fresh.main).ops():
        if op.type() in ('conv2d', 'depthwise_conv2d'):
            height, width = op.outputs('Output')[0].shape()[2:]
            total += math.prod(op.inputs('Filter')[0].shape()) * height * width
    assert total == 10_886_592


def test_mobilenet_scale_of_net_overrides(fresh: Any) -> None:
    slim.models.MobileNet().net(image(1, 28), class_dim=10, scale=0.5)
    assert trainable(fresh.main)['conv6_sep_weights'] == (512, 512, 1, 1)


@pytest.mark.parametrize(
    ('name', 'parameters'),
    [
        ('LeNet', ['conv1_weights', 'conv2_offset', 'fc3_weights', 'fc4_offset', 'fc5_weights']),
        ('MobileNetV2', ['conv1_1_weights', 'conv2_1_expand_weights', 'conv3_2_dwise_bn_scale', 'fc10_offset']),
        ('MobileNetV3Small', ['conv2_se_1_weights', 'conv2_se_2_offset', 'conv12_linear_weights', 'fc_weights']),
        ('MobileNetV3Large', ['conv5_depthwise_bn_mean', 'conv_last_weights', 'last_1x1_conv_weights', 'fc_offset']),
        ('ResNet18', ['conv1_weights', 'bn_conv1_scale', 'res3a_branch1_weights', 'bn5b_branch2b_variance']),
        ('ResNet50', ['res2a_branch2a_weights', 'bn2a_branch2a_offset', 'res5c_branch2c_weights', 'fc_0.w_0']),
        ('ResNet101', ['res4a_branch1_weights', 'res4b1_branch2a_weights', 'bn4b22_branch2c_scale', 'fc_0.b_0']),
        ('VGG16', ['conv1_1_weights', 'conv5_3_bn_offset', 'fc6_weights', 'fc8_offset']),
        ('ShuffleNetV2', ['stage1_conv_weights', 'stage_2_1_conv5_weights', 'stage_4_4_conv3_bn_scale', 'fc6_weights']),
        ('DenseNet121', ['conv1_bn_scale', 'conv2_1_x1_weights', 'conv5_16_x2_bn_mean', 'conv4_blk_weights']),
        ('GoogLeNet', ['conv2_3x3_weights', 'inception_ince3a_5x5_reduce_weights', 'inception_ince5b_proj_offset']),
        ('SqueezeNet', ['fire2_squeeze1x1_weights', 'fire9_expand3x3_offset', 'conv10_weights']),
        (
            'VisionTransformer',
            ['patch_embed_weights', 'pos_embed', 'block1_query_weights', 'norm_scale', 'head_offset'],
        ),
    ],
)
def test_parameter_names(name: str, parameters: list[str], fresh: Any) -> None:
    slim.models.create(name, **tiny(name)).net(image(3, 32), class_dim=10)
    known = {p.name for p in fresh.main.global_block().all_parameters()}
    assert set(parameters) <= known


def test_names_that_distillation_uses(fresh: Any) -> None:
    slim.models.ResNet18(scale=0.1).net(image(1, 28), class_dim=10)
    fresh.exe.run(fresh.startup)
    names = [
        'res2a_branch2a.conv2d.output.1.tmp_0',
        'bn2a_branch2a.output.1.tmp_2',
        'bn2a_branch2a.output.1.tmp_3',
        'res2a.add.output.5.tmp_0',
        'res2a.add.output.5.tmp_1',
    ]
    feed = {'image': np.random.RandomState(0).rand(2, 1, 28, 28).astype('float32')}
    values = slim.Executor().run(fresh.main, feed=feed, fetch_list=names)
    assert {value.shape for value in values} == {(2, 6, 7, 7)}
    np.testing.assert_array_equal(values[2], np.maximum(values[1], 0))
    np.testing.assert_array_equal(values[4], np.maximum(values[3], 0))


def test_features_of_the_tutorials_teacher_and_student_fit(fresh: Any) -> None:
    slim.models.MobileNet().net(image(1, 28), class_dim=10)
    student = GraphWrapper(fresh.main).var('depthwise_conv2d_11.tmp_0').shape()
    program = paddle.static.Program()
    with paddle.static.program_guard(program, paddle.static.Program()), paddle.utils.unique_name.guard():
        slim.models.ResNet50().net(image(1, 28), class_dim=10)
    assert GraphWrapper(program).var('bn5c_branch2b.output.1.tmp_3').shape() == student == (-1, 512, 1, 1)


def test_errors(fresh: Any) -> None:
    with pytest.raises(ConfigError, match="did you mean 'MobileNet"):
        slim.models.create('MobilNet')
    with pytest.raises(ConfigError, match="takes no argument 'width'"):
        slim.models.create('ResNet18', width=2)
    with pytest.raises(ConfigError, match='scale must be one of'):
        slim.models.ShuffleNetV2(scale=0.7)
    with pytest.raises(ConfigError, match='scale must be positive'):
        slim.models.MobileNet(scale=0)
    with pytest.raises(ConfigError, match='version must be one of'):
        slim.models.SqueezeNet(version='2')
    with pytest.raises(ConfigError, match='do not tile'):
        slim.models.VisionTransformer().net(image(3, 30, 'odd'), 10)
    with pytest.raises(ConfigError, match='at least 4 pixels'):
        slim.models.MobileNet().net(image(3, 3, 'dot'), 10)
    with pytest.raises(ConfigError, match='at least 12 pixels'):
        slim.models.LeNet().net(image(1, 8, 'small'), 10)
    with pytest.raises(ConfigError, match='known C, H and W'):
        slim.models.MobileNet().net(paddle.static.data('flat', [None, 9], 'float32'), 10)
    paddle.disable_static()
    with pytest.raises(ConfigError, match='enable_static'):
        slim.models.MobileNet().net(paddle.ones([1, 1, 8, 8]), 10)
    paddle.enable_static()
    assert not fresh.main.global_block().all_parameters()
