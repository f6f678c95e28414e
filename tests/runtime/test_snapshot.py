"""Snapshots: what goes in comes out, whatever is damaged is noticed, and a failing write leaves the former file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.runtime.snapshot import read_snapshot, write_snapshot

TENSORS = {
    'a/b.w_0': np.arange(6, dtype='float32').reshape(2, 3),
    'empty': np.zeros([0, 2], 'int64'),
    'scalar': np.float64(-0.0).reshape(()),
    'strided': np.arange(12, dtype='uint16').reshape(3, 4).T,
}
STATE = {
    'list': [1, 2.5, None, True, 'text', [2**70]],
    'nested': {'array': np.arange(3, dtype='int8'), 'nan': math.nan, 'tuple': (1, (2,))},
    'array': {'array': 'a text in a dict that looks like a reference'},
    'dict': {'dict': {'array': [1]}},
    'numpy': np.float32(0.1),
}


def same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right or (left != left and right != right))


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    write_snapshot(tmp_path / 'file.npz', TENSORS, STATE)
    found = read_snapshot(tmp_path / 'file.npz')
    assert same(
        found.tensors, {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in TENSORS.items()}
    )
    assert same(found.state, {**STATE, 'numpy': float(np.float32(0.1))})


def test_numpy_alone_can_open_it(tmp_path: Path) -> None:
    write_snapshot(tmp_path / 'file.npz', TENSORS, STATE)
    with np.load(tmp_path / 'file.npz', allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive['tensor/a/b.w_0'], TENSORS['a/b.w_0'])


@settings(max_examples=60)
@given(st.data())
def test_damage_is_noticed_wherever_it_is(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / 'damaged.npz'
    write_snapshot(path, TENSORS, STATE)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r'damaged\.npz is damaged, truncated or no snapshot'):
        read_snapshot(path)


def test_a_missing_file_and_another_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='cannot read .*none.npz'):
        read_snapshot(tmp_path / 'none.npz')
    np.savez(tmp_path / 'other.npz', a=1)
    with pytest.raises(CheckpointError, match='no snapshot'):
        read_snapshot(tmp_path / 'other.npz')


@pytest.mark.parametrize(
    ('state', 'where'),
    [
        ({'a': {'b': [object()]}}, r"state\['a'\]\['b'\]\[0\] is a object"),
        ({'a': {1: 2}}, r"state\['a'\] has the key 1"),
        ({'a': np.array([None])}, r"state\['a'\].* array of Python objects"),
    ],
)
def test_what_cannot_be_held_is_named_and_the_former_file_stays(tmp_path: Path, state: Any, where: str) -> None:
    write_snapshot(tmp_path / 'file.npz', {}, {'x': 1})
    with pytest.raises(ConfigError, match=where):
        write_snapshot(tmp_path / 'file.npz', {}, state)
    assert read_snapshot(tmp_path / 'file.npz').state == {'x': 1}
    assert [path.name for path in tmp_path.iterdir()] == ['file.npz']
