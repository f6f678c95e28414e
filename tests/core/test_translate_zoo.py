"""Every network translates to a legacy program with the same outputs, names and shapes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, paddle_compat, translate_program, translate_to_pir
from paddleslim_ng.core.ir_mode import ir_mode
from tests.core.translation_zoo import OURS, VISION, build, check_translation, images

FAST = ('LeNet', 'MobileNet', 'MobileNetV3Small', 'ShuffleNetV2', 'ResNet18', 'GoogLeNet', 'SqueezeNet')
pytestmark = pytest.mark.skipif(not paddle_compat.has_pir(), reason='this Paddle has no PIR programs')


@pytest.fixture(autouse=True)
def pir_mode() -> Iterator[None]:
    with ir_mode(pir=True):
        yield


@pytest.mark.parametrize(
    'name', [name if name in FAST else pytest.param(name, marks=pytest.mark.full) for name in OURS]
)
def test_networks_of_this_package(name: str) -> None:
    legacy = check_translation(OURS[name])
    flat = [op for op in legacy.global_block().ops if op.type in ('reshape2', 'flatten_contiguous_range')]
    assert all(len(op.output('XShape')) == 1 for op in flat)
    assert all(legacy.global_block().var(op.output('XShape')[0]).shape[0] == 0 for op in flat)


@pytest.mark.parametrize(
    'name', [name if name == 'lenet' else pytest.param(name, marks=pytest.mark.full) for name in VISION]
)
def test_networks_of_paddle(name: str) -> None:
    check_translation(VISION[name])


def test_transformer_with_masks_of_any_length() -> None:
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        source = paddle.static.data('source', [None, None, 16])
        target = paddle.static.data('target', [None, 4, 16])
        net = paddle.nn.Transformer(16, 2, 1, 2, 32, normalize_before=True, activation='gelu')
        out = net(source, target, tgt_mask=net.generate_square_subsequent_mask(4))
    exe = Executor()
    exe.run(startup, scope=scope)
    test = clone_program(main, for_test=True)
    legacy = translate_program(main, ['source', 'target'], [out])
    for batch, length in ((2, 5), (3, 7)):
        random = np.random.default_rng(batch)
        feed = {
            'source': random.standard_normal((batch, length, 16)).astype('float32'),
            'target': random.standard_normal((batch, 4, 16)).astype('float32'),
        }
        expected, found = (exe.run(program, feed, [out], scope=scope)[0] for program in (test, legacy))
        assert np.ptp(expected, axis=0).max() > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize('name', ['MobileNetV3Small', 'VisionTransformer'])
def test_there_and_back(name: str) -> None:
    built = build(OURS[name])
    names = [GraphWrapper.name_of(out) for out in built.outputs]
    legacy = translate_program(built.program, ['image'], names)
    pir = translate_to_pir(legacy, ['image'], names)
    again = translate_program(pir, ['image'], names)
    feed = images(OURS[name], 3)
    first, *others = (Executor().run(p, feed, names, scope=built.scope) for p in (legacy, pir, again))
    for other in others:
        for left, right in zip(first, other):
            np.testing.assert_array_equal(left, right)
    described = [[(op.type, op.input_arg_names) for op in program.global_block().ops] for program in (legacy, again)]
    assert described[0] == described[1]
