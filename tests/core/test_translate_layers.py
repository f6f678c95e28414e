"""Every layer of the table translates exactly, or is on the list of those that cannot be compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import (
    Executor,
    GraphWrapper,
    clone_program,
    cut_program,
    paddle_compat,
    translate_program,
    translate_to_pir,
)
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.runtime import data_inputs, synthesize_feeds
from tests.core.layers_table import CASES
from tests.core.translation_zoo import check_same_graph

pytestmark = pytest.mark.skipif(not paddle_compat.has_pir(), reason='this Paddle has no PIR programs')
# Each run draws other numbers; only shape and element type can be compared.
RANDOM = ('randn', 'randint', 'bern', 'multin', 'gumbel')
# Cases that flatten images into rows, so that the labels of a batch are as many as its rows.
ROWS_PER_IMAGE = dict.fromkeys(('ce', 'ce_none', 'ce_ls', 'ce_prob', 'swce', 'nll', 'acc'), 32)
# They need conversions: PIR's shape is int64, the legacy operator's int32; a legacy range has the type of its ends.
WITH_CAST = ('arange', 'shape')
# Translation is the same in both modes of Paddle; where PIR is not the default, a fifth of the table shows that.
PIR_BY_DEFAULT = paddle.get_flags('FLAGS_enable_pir_api')['FLAGS_enable_pir_api']
NAMES = list(CASES) if PIR_BY_DEFAULT else list(CASES)[::5]


@pytest.fixture(autouse=True)
def pir_mode() -> Iterator[None]:
    with ir_mode(pir=True):
        yield


class Layer:
    """A case as an inference program with parameters."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.scope = paddle.static.Scope()
        main, startup = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
            made = CASES[name].build(paddle.static.data('x', [-1, 4, 8, 8], 'float32'))
        outputs = [item for item in (made if isinstance(made, (list, tuple)) else [made]) if item is not None]
        self.outputs = [GraphWrapper.name_of(item) for item in outputs]
        Executor().run(startup, scope=self.scope)
        self.program = clone_program(main, for_test=True)
        self.feeds = [var.name() for var in data_inputs(self.program)]

    def feed(self, batch: int) -> dict[str, Any]:
        made = synthesize_feeds(self.program, self.feeds, batch=batch, seed=batch, dynamic=3)
        made.setdefault('x', np.random.default_rng(batch).standard_normal((batch, 4, 8, 8)).astype('float32'))
        rows = batch * ROWS_PER_IMAGE.get(self.name, 0)
        if rows:
            made['i'] = np.random.default_rng(batch).integers(0, 8, (rows, *made['i'].shape[1:]))
        if self.name == 'ctc':
            made['i'] = np.random.default_rng(batch).integers(1, 8, (4 * batch, 3))
            made.update(il=np.full([4 * batch], 8), ll=np.full([4 * batch], 3))
        if self.name == 'isample':
            made['i'] = np.random.default_rng(batch).integers(0, 8, (made['x'].size // 8, *made['i'].shape[1:]))
        if self.name == 'roi':
            made['b'] = np.tile(np.array([[1, 1, 5, 6]], 'float32'), (batch, 1))
            made['i'] = np.ones([batch], 'int64')
        return made

    def run(self, program: Any, batch: int) -> list[Any]:
        feed = self.feed(batch)
        known = {var.name() for var in data_inputs(program)} if program is not self.program else set(feed)
        fed = {key: value for key, value in feed.items() if key in known}
        return [np.asarray(array) for array in Executor().run(program, fed, self.outputs, scope=self.scope)]


def check_equal(layer: Layer, program: Any) -> None:
    for batch in (2, 3):
        expected, found = layer.run(layer.program, batch), layer.run(program, batch)
        for before, after in zip(expected, found):
            assert (before.shape, before.dtype) == (after.shape, after.dtype)
            if layer.name not in RANDOM:
                np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize('name', NAMES)
def test_layer_translates_exactly(name: str) -> None:
    layer = Layer(name)
    legacy = translate_program(layer.program, layer.feeds, layer.outputs)
    check_equal(layer, legacy)
    check_equal(layer, translate_to_pir(legacy, layer.feeds, layer.outputs))
    if name not in WITH_CAST:
        check_same_graph(cut_program(layer.program, layer.feeds, layer.outputs), legacy)
