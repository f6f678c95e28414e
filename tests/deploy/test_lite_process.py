"""Paddle Lite in its own process: the dialogue, crashes, and the search for an interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.deploy.interpreters import WORKER, find_interpreter
from paddleslim_ng.deploy.lite_process import LiteProcess
from paddleslim_ng.errors import DataError, DeployError
from paddleslim_ng.models import layers
from tests.deploy import lite_nets as nets


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[nets.Net, Path]:
    paddle.enable_static()
    net = nets.build(lambda image: paddle.flatten(layers.conv(image, 4, 3, name='c'), 1), (1, 6, 6))
    out = tmp_path_factory.mktemp('nb') / 'net'
    return net, slim.deploy.to_lite(net.program, out, 'x86', fetches=net.fetches, scope=net.scope, check=False).file


def test_dialogue(made: tuple[nets.Net, Path]) -> None:
    net, path = made
    with LiteProcess(path, threads=2) as lite:
        assert lite.inputs == ['image']
        lite.set_inputs(net.images)
        times = lite.run(repeats=4)
        assert len(times.wall) == len(times.cpu) == 4
        assert all(0 < time < 1e4 for time in times.wall)
        first = next(iter(lite.outputs().values()))
        np.testing.assert_allclose(first, nets.expected(net), rtol=1e-4, atol=1e-5)
        # Inputs of another batch size, in the same predictor.
        lite.set_inputs({'image': np.concatenate([net.images['image']] * 2)})
        lite.run()
        np.testing.assert_array_equal(next(iter(lite.outputs().values())), np.concatenate([first] * 2))
        assert 0 < lite.library_bytes <= lite.peak_bytes() < 2**31


def test_refusals_leave_the_process_alive(made: tuple[nets.Net, Path]) -> None:
    net, path = made
    with LiteProcess(path) as lite:
        with pytest.raises(DataError, match=r"no input \['picture'\]"):
            lite.set_inputs({'picture': net.images['image']})
        with pytest.raises(DeployError, match="no input 'picture'"):
            lite.ask('set', arrays={'picture': 'none.npy'})
        with pytest.raises(DeployError, match='FileNotFoundError'):
            lite.ask('set', arrays={'image': 'none.npy'})
        with pytest.raises(DeployError, match="unknown command 'dance'"):
            lite.ask('dance')
        lite.set_inputs(net.images)
        lite.run()
    with pytest.raises(DeployError, match='closed'):
        lite.run()
    lite.close()


def test_a_crash_is_an_error_with_the_last_words(made: tuple[nets.Net, Path], tmp_path: Path) -> None:
    with LiteProcess(made[1]) as lite, pytest.raises(DeployError, match=r'SIGABRT: \[F .*CheckShape'):
        lite.run()  # without inputs
    broken = tmp_path / 'broken.nb'
    broken.write_bytes(made[1].read_bytes()[:-40])
    with pytest.raises(DeployError, match=r"died at 'load' on broken\.nb: killed by SIG"):
        LiteProcess(broken)
    with pytest.raises(DataError, match='there is no file'):
        LiteProcess(tmp_path / 'none.nb')


def test_silence_ends_after_the_time_allowed(made: tuple[nets.Net, Path]) -> None:
    with LiteProcess(made[1]) as lite:
        lite.set_inputs(made[0].images)
        lite.timeout = 0.2
        with pytest.raises(DeployError, match='took over 0.2 s'):
            lite.run(repeats=10**9)


def test_every_element_type_arrives(tmp_path: Path) -> None:
    """numpy 2 and the wheel do not understand each other: without care, nothing is copied and nothing said."""
    program, scope = paddle.static.Program(), paddle.static.Scope()
    dtypes = ('float32', 'int32', 'int64')
    with paddle.static.program_guard(program, paddle.static.Program()):
        inputs = [paddle.static.data(dtype, [None, 3], dtype) for dtype in dtypes]
        out = paddle.concat([paddle.cast(item, 'float32') for item in inputs], axis=1)
        out = out + layers.parameter('shift', [9], paddle.nn.initializer.Constant(0.0))
    slim.core.store_array(scope, 'shift', np.zeros(9, 'float32'))
    result = slim.deploy.to_lite(program, tmp_path / 'net', 'x86', fetches=[out], scope=scope, check=False)
    feeds = {dtype: np.array([[1, -2, 70000], [5, 0, 3]]).astype(dtype) for dtype in dtypes}
    with LiteProcess(result.file) as lite:
        lite.set_inputs(feeds)
        lite.run()
        (found,) = lite.outputs().values()
    np.testing.assert_array_equal(found, np.concatenate(list(feeds.values()), axis=1))
    assert slim.deploy.verify(result, feeds).passed


def test_interpreters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_interpreter()
    assert found == find_interpreter(found.path)
    versions = subprocess.run([found.path, WORKER, 'probe'], capture_output=True, text=True, check=True).stdout
    assert found.python in versions
    assert found.opt_version in versions
    with pytest.raises(DeployError, match=r'no_such_python: not an executable file.*paddlelite==2\.13rc0'):
        find_interpreter('no_such_python')
    bare = tmp_path / 'python'
    bare.write_text('#!/bin/sh\necho "ModuleNotFoundError: No module named paddlelite" >&2\nexit 1\n', 'utf-8')
    bare.chmod(0o755)
    with pytest.raises(DeployError, match='No module named paddlelite'):
        find_interpreter(bare)
    # With nothing on the search path and an interpreter that lacks it, a virtual environment in the folder serves.
    (tmp_path / '.venv-lite' / 'bin').mkdir(parents=True)
    launcher = tmp_path / '.venv-lite' / 'bin' / 'python'
    launcher.write_text(f'#!/bin/sh\nexec {found.path} "$@"\n', 'utf-8')
    launcher.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(bare))
    monkeypatch.setattr(sys, 'prefix', str(tmp_path / 'elsewhere' / 'env'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PATH', str(tmp_path / 'empty'))
    monkeypatch.setenv('PYENV_ROOT', str(tmp_path / 'empty'))
    assert find_interpreter().path == launcher
    launcher.unlink()
    with pytest.raises(DeployError, match='no Python with Paddle Lite was found.*No module named paddlelite'):
        find_interpreter()
