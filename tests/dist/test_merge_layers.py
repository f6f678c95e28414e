"""Whatever layer a teacher consists of, merged it computes what it computes alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import Executor, GraphWrapper, clone_program
from paddleslim_ng.dist import merge
from paddleslim_ng.errors import GraphError
from paddleslim_ng.runtime import data_inputs, synthesize_feeds
from tests.core.layers_table import CASES
from tests.core.support import refusals_skip

# Each run draws other numbers, or the layer wants inputs that fit each other.
NOT_COMPARED = (
    'randn',
    'randint',
    'bern',
    'multin',
    'gumbel',
    'ce',
    'ctc',
    'nll',
    'acc',
    'isample',
    'roi',
    'scatter',
    'swce',
)
NAMES = [name for name in CASES if not name.startswith(NOT_COMPARED)]


def build(name: str) -> tuple[Any, list[str]]:
    main, startup = paddle.static.Program(), paddle.static.Program()
    with refusals_skip(), paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        made = CASES[name].build(paddle.static.data('x', [-1, 4, 8, 8], 'float32'))
    Executor().run(startup)
    outputs = [item for item in (made if isinstance(made, (list, tuple)) else [made]) if item is not None]
    return main, [GraphWrapper.name_of(item) for item in outputs]


# They read nothing that is fed, so there is nothing to merge.
CONSTANT = ('addmm', 'arange', 'assign_np', 'eye', 'linspace', 'increment')


@pytest.mark.parametrize('name', NAMES)
def test_layers_compute_the_same_when_merged(name: str, fresh: Any) -> None:
    teacher, outputs = build(name)
    evaluation = clone_program(teacher, for_test=True)
    inputs = data_inputs(evaluation)
    if name in CONSTANT:
        with pytest.raises(GraphError, match='nothing of the program'):
            merge(teacher, paddle.static.Program(), {}, teacher_scope=fresh.scope)
        return
    feed = synthesize_feeds(evaluation, batch=3, seed=1, dynamic=3)
    feed.setdefault('x', np.zeros((3, 4, 8, 8), 'float32'))
    want = Executor().run(evaluation, feed, outputs)
    student, scope = paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(student, paddle.static.Program()):
        for var in inputs:
            paddle.static.data(f'my_{var.name()}', list(var.shape()), var.dtype())
    names = {var.name(): f'my_{var.name()}' for var in inputs}
    merged = merge(teacher, student, names, scope=scope, teacher_scope=fresh.scope, check=False)
    shared = {names[name]: feed[name] for name in names}
    found = Executor().run(student, shared, [merged.names[name] for name in outputs], scope=scope)
    for mine, theirs in zip(found, want):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
