"""Sensitivities on disk: round trips, stale files, old pickles, hostile pickles."""

from __future__ import annotations

import json
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.prune.sensitive.sensitivity_file import SensitivityFile, load_sensitivities, merge_sensitive

CURVES = {'a': {0.1: 0.25, 0.30000000000000004: -1e-17}, 'b': {0.5: 0.125}}
# What Python 2 wrote with protocol 0, where numbers of numpy are byte strings and names are bytes.
PYTHON2 = (
    b"(dp0\nS'a'\np1\n(dp2\nF0.1\ncnumpy.core.multiarray\nscalar\np3\n(cnumpy\ndtype\np4\n(S'f4'\np5\nI0\nI1\ntp6\nRp7\n"
    b"(I3\nS'<'\np8\nNNNI-1\nI-1\nI0\ntp9\nbS'\\x00\\x00\\x80>'\np10\ntp11\nRp12\nss."
)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / 'folder' / 's.json'
    state = SensitivityFile.resume(path, 'f', 'l1_norm')
    assert path.is_file(), 'written at once, so that an unusable place shows before the work begins'
    state.baseline = 0.1 + 0.2
    for parameter, curve in CURVES.items():
        for ratio, loss in curve.items():
            state.add(parameter, ratio, loss)
    assert load_sensitivities(path) == CURVES
    again = SensitivityFile.resume(path, 'f', 'l1_norm')
    assert (again.baseline, again.sensitivities) == (state.baseline, CURVES)
    assert sorted(p.name for p in path.parent.iterdir()) == ['s.json'], 'no temporary files stay behind'


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SensitivityFile.resume(None, '', 'l1_norm').add('w', 0.1, 0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('identity', 'word'),
    [(('g', 'l1_norm', ''), 'network'), (('f', 'l2_norm', ''), 'criterion'), (('f', 'l1_norm', 'x'), 'data')],
)
def test_stale_file_is_an_error_that_says_what_changed(
    tmp_path: Path, identity: tuple[str, str, str], word: str
) -> None:
    path = tmp_path / 's.json'
    SensitivityFile.resume(path, 'h', 'l1_norm')  # of a process that was killed before it had measured anything
    SensitivityFile.resume(path, 'f', 'l1_norm').add('w', 0.1, 0.0)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=f'stale: the {word}.*delete'):
        SensitivityFile.resume(path, *identity)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    'content', [b'', b'{', b'{"version": 1}', b'[]', b'\xff\xfe', b'{"version": 1, "baseline": NaN}']
)
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 's.json'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='damaged'):
        load_sensitivities(path)


def test_unknown_version_and_missing_file(tmp_path: Path) -> None:
    path = tmp_path / 's.json'
    path.write_text(json.dumps({'version': 99}))
    with pytest.raises(CheckpointError, match='99'):
        load_sensitivities(path)
    with pytest.raises(CheckpointError, match='nowhere'):
        load_sensitivities(tmp_path / 'nowhere')


def test_unwritable_place_shows_at_once(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(CheckpointError, match='cannot write'):
        SensitivityFile.resume(tmp_path / 'file' / 's.json', 'f', 'l1_norm')


@pytest.mark.parametrize('protocol', range(5))
@pytest.mark.parametrize('kind', [float, np.float32, np.float64, np.int64])
def test_old_pickles_are_read(tmp_path: Path, protocol: int, kind: type) -> None:
    path = tmp_path / 's.data'
    path.write_bytes(pickle.dumps({'w': {0.1: kind(0.25), 0.2: kind(2)}}, protocol))
    assert load_sensitivities(path) == {'w': {0.1: float(kind(0.25)), 0.2: 2.0}}


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    path = tmp_path / 's.data'
    path.write_bytes(PYTHON2)
    assert load_sensitivities(path) == {'a': {0.1: 0.25}}


def test_module_name_of_numpy_2(tmp_path: Path) -> None:
    path = tmp_path / 's.data'
    path.write_bytes(PYTHON2.replace(b'numpy.core.multiarray', b'numpy._core.multiarray'))
    assert load_sensitivities(path) == {'a': {0.1: 0.25}}


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ('echo harm > harm',)


@pytest.mark.parametrize(
    'content',
    [
        pickle.dumps({'w': {0.1: _Evil()}}),
        pickle.dumps({'w': {0.1: np.zeros(3)}}),
        pickle.dumps({'w': {0.1: np.complex64(1)}}),
        pickle.dumps({'w': {0.1: {0.2: 'x'}}}),
        pickle.dumps({'w': [0.1]}),
        pickle.dumps({1: {0.1: 0.1}}),
        pickle.dumps([1, 2]),
        pickle.dumps({'w': {0.1: 0.1}})[:-3],
        # Changing the attributes of a function that the unpickler hands out.
        b'\x80\x02cnumpy\ndtype\n(NU\x01a)K\x01s\x86b.',
        b'\x80\x02cnumpy\ndtype\nN}U\x08__code__K\x01s\x86b.',
        b'\x80\x02cpaddleslim_ng.errors\nSlimError\n.',
        b'\x80\x02cbuiltins\neval\n(X\x04\x00\x00\x001/0.tR.',
        b'\x80\x04\x8c\x08builtins\x8c\x04eval\x93.',
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 's.data').write_bytes(content)
    with pytest.raises(CheckpointError):
        load_sensitivities('s.data')
    assert not (tmp_path / 'harm').exists()


def test_pickle_cannot_be_continued(tmp_path: Path) -> None:
    path = tmp_path / 's.data'
    path.write_bytes(pickle.dumps(CURVES))
    with pytest.raises(CheckpointError, match='merge_sensitive'):
        SensitivityFile.resume(path, 'f', 'l1_norm')


def test_merge_of_all_kinds(tmp_path: Path) -> None:
    (tmp_path / 'old').write_bytes(pickle.dumps({'a': {0.4: 4.0}}))
    SensitivityFile.resume(tmp_path / 'new', 'f', 'l1_norm').add('c', 0.2, 2.0)
    merged = merge_sensitive([CURVES, tmp_path / 'old', str(tmp_path / 'new')])
    assert merged == {'a': {**CURVES['a'], 0.4: 4.0}, 'b': CURVES['b'], 'c': {0.2: 2.0}}
    assert list(merged['a']) == sorted(merged['a'])
    assert 0.4 not in CURVES['a'], 'the arguments stay as they were'


def test_merge_tells_of_contradictions(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, 'paddleslim_ng'):
        assert merge_sensitive([{'w': {0.1: 1.0}}, {'w': {0.1: 2.0}}]) == {'w': {0.1: 2.0}}
    assert 'replaced' in caplog.text


def test_merge_refuses_files_of_different_networks(tmp_path: Path) -> None:
    for name in 'fg':
        SensitivityFile.resume(tmp_path / name, name, 'l1_norm').add('w', 0.1, 0.0)
    with pytest.raises(CheckpointError, match='different networks'):
        merge_sensitive([tmp_path / 'f', tmp_path / 'g'])


@pytest.mark.parametrize('argument', [[], 'name', {'w': {0.1: 0.0}}, [3]])
def test_merge_wants_a_list(argument: object) -> None:
    with pytest.raises(ConfigError):
        merge_sensitive(argument)  # type: ignore[arg-type]
