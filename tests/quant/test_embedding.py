"""Embedding tables as integers: what is looked up, what is stored, and what stays in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

import paddleslim_ng as slim
from paddleslim_ng.core import has_array, load_array, store_array
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.quant import EMBEDDING_TYPES, quant_embedding
from paddleslim_ng.runtime import load_inference_model, save_inference_model

ROWS, WIDTH = 200, 16


class Words:
    """Two embedding tables, one with a padding row that two inputs share, and a linear layer behind."""

    def __init__(self, tied: bool = False, train: bool = False) -> None:
        self.main, self.startup, self.scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        with paddle.static.program_guard(self.main, self.startup), paddle.utils.unique_name.guard():
            words = paddle.static.data('words', [None, 5], 'int64')
            places = paddle.static.data('places', [None, 5], 'int64')
            table = nn.Embedding(ROWS, WIDTH, padding_idx=3, weight_attr=paddle.ParamAttr(name='table'))
            other = nn.Embedding(7, WIDTH, weight_attr=paddle.ParamAttr(name='other'))
            self.found = table(words)
            h = self.found + other(places)
            self.out = nn.Linear(WIDTH, 4)(h)
            if tied:
                weight = slim.GraphWrapper(self.main).var('table').raw
                self.out = self.out + paddle.mean(weight)
            if train:
                paddle.optimizer.SGD(0.1).minimize(paddle.mean(self.out))
        slim.Executor().run(self.startup, scope=self.scope)
        rng = np.random.default_rng(1)
        self.table = (rng.standard_normal((ROWS, WIDTH)) * rng.uniform(0.2, 3, (ROWS, 1))).astype('float32')
        store_array(self.scope, 'table', self.table)

    def run(self, program: Any, *fetches: Any) -> Any:
        rng = np.random.default_rng(2)
        feed = {'words': rng.integers(0, ROWS, (6, 5)), 'places': rng.integers(0, 7, (6, 5))}
        feed['words'][0, :2] = 3
        return feed, slim.Executor().run(program, feed, list(fetches), scope=self.scope)


def reference(table: Any, kind: str, bits: int) -> Any:
    """Return what the integers of a table stand for, computed on its own."""
    limit = 2 ** (bits - 1) - 1
    axis = 1 if kind == 'row_wise' else None
    scale = np.maximum(np.abs(table).max(axis=axis, keepdims=True).astype('float64'), 1e-30) / limit
    return np.clip(np.rint(table / scale), -limit, limit) * scale


@pytest.mark.parametrize('kind', ['abs_max', 'row_wise'])
@pytest.mark.parametrize('bits', [8, 4, 2])
def test_lookups_are_those_of_numpy(kind: str, bits: int) -> None:
    net = Words()
    small = quant_embedding(net.main, paddle.CPUPlace(), {'quantize_type': kind, 'quantize_bits': bits}, net.scope)
    table = net.table.copy()
    table[3] = 0
    feed, (found,) = net.run(small, net.found)
    np.testing.assert_allclose(found, reference(table, kind, bits)[feed['words']], rtol=1e-6, atol=1e-7)
    assert not found[0, :2].any()
    codes = load_array(net.scope, 'table.codes')
    assert codes.dtype == np.int8 and codes.shape == (ROWS, WIDTH)
    assert len(np.unique(codes)) <= 2**bits - 1
    assert not has_array(net.scope, 'table')


@pytest.mark.parametrize('kind', ['log', 'codebook'])
@pytest.mark.parametrize('bits', [8, 4, 2])
def test_codebooks_give_the_nearest_level(kind: str, bits: int) -> None:
    net = Words()
    config = {'quantize_type': kind, 'quantize_bits': bits, 'params_name': 'table'}
    small = quant_embedding(net.main, paddle.CPUPlace(), config, net.scope)
    feed, (found,) = net.run(small, net.found)
    levels = load_array(net.scope, 'table.codebook').reshape(-1)
    assert len(levels) <= 2**bits
    assert 0.0 in levels
    table = net.table.copy()
    table[3] = 0
    nearest = levels[np.abs(table[..., None].astype('float64') - levels).argmin(-1)]
    np.testing.assert_array_equal(found, nearest[feed['words']])
    assert has_array(net.scope, 'other') and not has_array(net.scope, 'other.codes')


def test_finer_kinds_are_closer() -> None:
    errors = {}
    for kind in EMBEDDING_TYPES:
        net = Words()
        _, (want,) = net.run(net.main, net.found)
        small = quant_embedding(net.main, None, {'quantize_type': kind, 'quantize_bits': 3}, net.scope)
        _, (found,) = net.run(small, net.found)
        errors[kind] = float(np.square(found - want).mean())
    assert errors['row_wise'] < errors['abs_max']
    assert errors['codebook'] < errors['abs_max']


def test_files_shrink_and_reload(tmp_path: Path) -> None:
    net = Words()
    before = save_inference_model(net.main, tmp_path / 'float', ['words', 'places'], [net.out], net.scope)
    small = quant_embedding(net.main, paddle.CPUPlace(), None, net.scope)
    after = save_inference_model(small, tmp_path / 'int8', ['words', 'places'], [net.out], net.scope)
    assert after.parameter_file.stat().st_size < 0.45 * before.parameter_file.stat().st_size
    feed, (want,) = net.run(small, net.out)
    model = load_inference_model(tmp_path / 'int8', paddle.static.Scope())
    (found,) = slim.Executor().run(model.program, feed, model.fetches, scope=model.scope)
    np.testing.assert_array_equal(found, want)
    assert load_array(model.scope, 'table.codes').dtype == np.int8


def test_the_original_runs_on_where_it_is_kept() -> None:
    net = Words()
    _, (before,) = net.run(net.main, net.out)
    quant_embedding(net.main, paddle.CPUPlace(), None, net.scope, keep_float=True)
    _, (after,) = net.run(net.main, net.out)
    np.testing.assert_array_equal(before, after)


def test_a_threshold_cuts_off() -> None:
    net = Words()
    small = quant_embedding(net.main, None, {'threshold': 0.5, 'params_name': ['table']}, net.scope)
    _, (found,) = net.run(small, net.found)
    assert np.abs(found).max() <= np.float32(0.5)
    assert np.abs(found).max() > 0.499


def test_tied_weights_stay_in_float(caplog: pytest.LogCaptureFixture) -> None:
    net = Words(tied=True)
    _, (before,) = net.run(net.main, net.found)
    small = quant_embedding(net.main, None, None, net.scope)
    assert "'table' stays in float: reduce_mean reads it as well" in caplog.text
    _, (after,) = net.run(small, net.found)
    np.testing.assert_array_equal(before, after)
    assert has_array(net.scope, 'other.codes')


@pytest.mark.parametrize(
    ('config', 'error', 'message'),
    [
        ({'quantize_tpye': 'log'}, ConfigError, "unknown key 'quantize_tpye'.*did you mean 'quantize_type'"),
        ({'quantize_type': 'logs'}, ConfigError, "unknown quantize_type 'logs'.*did you mean 'log'"),
        ({'quantize_bits': 9}, ConfigError, 'from 2 to 8'),
        ({'dtype': 'uint8'}, ConfigError, "dtype must be 'int8'"),
        ({'threshold': -1.0}, ConfigError, 'threshold must be a positive number'),
        ({'params_name': 'tabel'}, ConfigError, "'tabel' is no table of embeddings.*did you mean 'table'"),
    ],
)
def test_refusals(config: dict[str, Any], error: type[Exception], message: str) -> None:
    net = Words()
    with pytest.raises(error, match=message):
        quant_embedding(net.main, None, config, net.scope)
    np.testing.assert_array_equal(load_array(net.scope, 'table'), net.table)


def test_what_cannot_be_quantized() -> None:
    with pytest.raises(GraphError, match=r'trains.*clone_program'):
        quant_embedding(Words(train=True).main, None)
    net = Words()
    spoiled = net.table.copy()
    spoiled[5, 5] = np.nan
    store_array(net.scope, 'table', spoiled)
    with pytest.raises(DataError, match="'table' must hold finite"):
        quant_embedding(net.main, None, None, net.scope)
    empty = paddle.static.Program()
    with pytest.raises(GraphError, match='no table of embeddings'):
        quant_embedding(empty, None)
