"""The files of parameters: byte for byte those that Paddle writes, and damage is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import GraphWrapper, load_array
from paddleslim_ng.errors import DataError
from paddleslim_ng.runtime.parameter_file import read_combined, read_separate, write_combined

KINDS = ('float16', 'float32', 'float64', 'uint8', 'int8', 'int16', 'int32', 'int64', 'bool', 'complex64', 'uint16')


def arrays() -> dict[str, Any]:
    random = np.random.default_rng(0)
    found = {kind: (random.random((2, 3)) * 100).astype(kind) for kind in KINDS}
    return {**found, 'scalar': np.array(2.5, 'float32'), 'empty': np.zeros([0, 4], 'float32'), 'long': np.ones([300])}


def test_what_paddle_writes(fresh: Any, tmp_path: Path) -> None:
    x = paddle.static.data('x', [None, 3])
    y = paddle.nn.BatchNorm1D(200)(paddle.nn.Linear(3, 200)(x))
    fresh.exe.run(fresh.startup)
    paddle.static.save_inference_model(str(tmp_path / 'net'), [x], [y], fresh.exe, program=fresh.main)
    names = [var.name() for var in GraphWrapper(fresh.main).all_parameters()]
    assert len(names) == 6
    found = read_combined(tmp_path / 'net.pdiparams', names)
    assert list(found) == sorted(names)
    for name in names:
        np.testing.assert_array_equal(found[name], load_array(fresh.scope, name))
    write_combined(tmp_path / 'again', found)
    assert (tmp_path / 'again').read_bytes() == (tmp_path / 'net.pdiparams').read_bytes()


def test_every_element_type(tmp_path: Path) -> None:
    write_combined(tmp_path / 'file', arrays())
    found = read_combined(tmp_path / 'file', list(arrays()))
    for name, array in arrays().items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(DataError, match=r"'text' has elements of type <U1"):
        write_combined(tmp_path / 'other', {'text': np.array(['a'])})
    assert not (tmp_path / 'other').exists()


def test_a_file_cut_anywhere_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / 'file'
    write_combined(path, {'a': np.ones([2, 2], 'float32'), 'b': np.ones([3], 'int64')})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match='truncated'):
            read_combined(path, ['b', 'a'])
    path.write_bytes(whole + b'\0')
    with pytest.raises(DataError, match='goes on after the last of 2 parameters, by 1 bytes'):
        read_combined(path, ['b', 'a'])


def test_flipped_bits_never_do_worse_than_an_error(tmp_path: Path) -> None:
    path = tmp_path / 'file'
    write_combined(path, {'a': np.ones([2, 2], 'float32'), 'b': np.ones([3], 'int64')})
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        for bit in (1, 128):
            flipped = bytearray(whole)
            flipped[position] ^= bit
            path.write_bytes(bytes(flipped))
            try:
                read_combined(path, ['a', 'b'])
            except DataError as error:
                refused += 1
                assert str(path) in str(error)
    assert refused > len(whole) / 2  # the others changed the numbers themselves


def test_wrong_counts_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / 'file'
    write_combined(path, {'a': np.ones([2], 'float32')})
    with pytest.raises(DataError, match=r"1 tensors where the program has 2 parameters.*'b'"):
        read_combined(path, ['a', 'b'])
    with pytest.raises(DataError, match='No such file'):
        read_combined(tmp_path / 'none', ['a'])
    (tmp_path / 'a').write_bytes(path.read_bytes())
    assert read_separate(tmp_path, ['a'])['a'].tolist() == [1.0, 1.0]
    (tmp_path / 'a').write_bytes(path.read_bytes() * 2)
    with pytest.raises(DataError, match='goes on after its tensor'):
        read_separate(tmp_path, ['a'])
    with pytest.raises(DataError, match='No such file'):
        read_separate(tmp_path, ['b'])
