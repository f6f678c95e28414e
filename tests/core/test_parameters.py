"""Parameters in a scope: reading, writing, changing shape, and what is said of missing ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import has_array, load_array, shape_of, store_array, view_array
from paddleslim_ng.errors import GraphError
from tests.core.support import batch, small


@pytest.fixture
def filled() -> Any:
    net, scope = small(), paddle.static.Scope()
    slim.Executor().run(net.startup, scope=scope)
    return net, scope


def test_read_and_write(filled: Any) -> None:
    net, scope = filled
    assert has_array(scope, 'w')
    assert shape_of(scope, 'w') == (8, 4, 3, 3)
    w = load_array(scope, 'w')
    assert w.dtype == np.float32
    w[:] = 7  # a copy
    assert not np.array_equal(load_array(scope, 'w'), w)
    store_array(scope, 'w', w)
    assert np.array_equal(load_array(scope, 'w'), w)
    found = slim.Executor().run(net.main, feed=batch(), fetch_list=['w'], scope=scope)[0]
    assert np.array_equal(found, w)


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'float64', 'int64', 'int8', 'uint8', 'bool', 'uint16'])
def test_a_view_is_read_only_and_survives_what_is_written_elsewhere(dtype: str) -> None:
    scope, old = paddle.static.Scope(), np.arange(60).reshape(3, 20).astype(dtype)
    store_array(scope, 'w', old)
    view = view_array(scope, 'w')
    assert view.dtype == old.dtype
    np.testing.assert_array_equal(view, old)
    with pytest.raises(ValueError, match='read-only'):
        view[0, 0] = 1
    store_array(scope, 'w', np.zeros([2, 2], dtype), fresh=True)
    np.testing.assert_array_equal(view, old)
    assert load_array(scope, 'w').tolist() == np.zeros([2, 2], dtype).tolist()


def test_a_view_shares_the_memory_of_the_scope() -> None:
    scope = paddle.static.Scope()
    store_array(scope, 'w', np.zeros([64], 'float32'))
    first, second = view_array(scope, 'w'), view_array(scope, 'w')
    assert np.shares_memory(first, second)
    store_array(scope, 'w', np.ones([64], 'float32'))
    assert first.sum() == 64


def test_shape_and_kind_may_change(filled: Any) -> None:
    _, scope = filled
    for array in (
        np.ones([5, 4, 3, 3], 'float32'),
        np.arange(6, dtype='int64')[::2],
        np.float64(2.5),
        np.zeros([0, 3]),
    ):
        store_array(scope, 'w', np.asarray(array))
        assert shape_of(scope, 'w') == np.shape(array)
        assert load_array(scope, 'w').dtype == np.asarray(array).dtype
        assert np.array_equal(load_array(scope, 'w'), array)


def test_missing(filled: Any) -> None:
    _, scope = filled
    assert not has_array(scope, 'linear_0.w_1')
    assert not has_array(paddle.static.Scope(), 'w')
    for read in (load_array, shape_of):
        with pytest.raises(GraphError, match=r"no initialized tensor 'linear_0.w_1'") as caught:
            read(scope, 'linear_0.w_1')
        assert not hasattr(scope, 'local_var_names') or "did you mean 'linear_0.w_0'" in str(caught.value)
    scope.var('empty')
    assert not has_array(scope, 'empty')
    with pytest.raises(GraphError, match='run the startup program'):
        load_array(scope, 'empty')


def test_new_ones_are_made() -> None:
    scope = paddle.static.Scope()
    store_array(scope, 'fresh', np.ones([2, 2], 'float32'), paddle.CPUPlace())
    assert load_array(scope, 'fresh').tolist() == [[1, 1], [1, 1]]
