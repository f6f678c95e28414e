"""What goes wrong from outside: each is a typed error, and the folder is as it was."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.deploy.interpreters import find_interpreter
from paddleslim_ng.errors import DataError, DeployError, EquivalenceError, SlimError
from paddleslim_ng.models import layers
from tests.deploy import lite_nets as nets

OLD = b'an older file'


def body(image: Any) -> Any:
    return paddle.flatten(layers.conv(image, 4, 3, name='c', bias=True, act='relu'), 1)


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved ``.pdmodel``."""
    paddle.enable_static()
    return nets.save(nets.build(body, (1, 6, 6)), tmp_path_factory.mktemp('saved') / 'net', 'pdmodel')


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """The folder has one older file inside and afterwards."""
    (folder / 'net.nb').write_bytes(OLD)
    yield
    assert [path.name for path in folder.iterdir()] == ['net.nb']
    assert (folder / 'net.nb').read_bytes() == OLD


def copy_of(saved: Path, folder: Path, program: bytes | None = None, parameters: bytes | None = None) -> Path:
    folder.mkdir()
    (folder / 'net.pdmodel').write_bytes(program or saved.with_suffix('.pdmodel').read_bytes())
    content = saved.with_suffix('.pdiparams').read_bytes() if parameters is None else parameters
    (folder / 'net.pdiparams').write_bytes(content)
    return folder / 'net'


def script(path: Path, text: str) -> Path:
    """Write an executable that stands for the converter."""
    path.write_text(f'#!/bin/sh\n{text}\n', 'utf-8')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize('lost', [1, 10, 40, 'all'])
def test_truncated_parameters(lost: Any, saved: Path, tmp_path: Path) -> None:
    whole = saved.with_suffix('.pdiparams').read_bytes()
    model = copy_of(saved, tmp_path / 'model', parameters=b'' if lost == 'all' else whole[:-lost])
    (tmp_path / 'out').mkdir()
    with unchanged(tmp_path / 'out'), pytest.raises(DataError, match=r'net\.pdiparams'):
        slim.deploy.to_lite(model, tmp_path / 'out' / 'net')


def test_truncated_program(saved: Path, tmp_path: Path) -> None:
    whole = saved.with_suffix('.pdmodel').read_bytes()
    model = copy_of(saved, tmp_path / 'model', program=whole[: len(whole) // 2])
    (tmp_path / 'out').mkdir()
    with unchanged(tmp_path / 'out'), pytest.raises(SlimError):
        slim.deploy.to_lite(model, tmp_path / 'out' / 'net')


@pytest.mark.parametrize('target', ['arm', 'x86'])
def test_foreign_operator(target: str, saved: Path, tmp_path: Path) -> None:
    program = nets.read_program(saved.with_suffix('.pdmodel'))
    for op in program.global_block().ops:
        if op.type == 'relu':
            op.desc.set_type('gaussian_splat')
    model = copy_of(saved, tmp_path / 'model', program=program.desc.serialize_to_string())
    (tmp_path / 'out').mkdir()
    with (
        unchanged(tmp_path / 'out'),
        pytest.raises(DeployError, match=f"no kernel for '{target}' of these operators: gaussian_splat"),
    ):
        slim.deploy.to_lite(model, tmp_path / 'out' / 'net', target)


def test_killed_converter(saved: Path, tmp_path: Path) -> None:
    (tmp_path / 'out').mkdir()
    begun = tmp_path / 'begun'
    # It writes half a file where the converter would, and then waits for its end.
    opt = script(
        tmp_path / 'opt',
        f'for a in "$@"; do case $a in --optimize_out=*) echo half > "${{a#*=}}.nb";; esac; done\n'
        f'echo $$ > {begun}\nexec sleep 60',
    )

    def kill() -> None:
        while not begun.is_file() or not begun.read_text('utf-8').strip():
            time.sleep(0.01)
        subprocess.run(['kill', '-9', begun.read_text('utf-8').strip()], check=True)

    killer = threading.Thread(target=kill)
    killer.start()
    with unchanged(tmp_path / 'out'), pytest.raises(DeployError, match='killed by SIGKILL'):
        slim.deploy.to_lite(saved, tmp_path / 'out' / 'net', opt=opt)
    killer.join()
    with unchanged(tmp_path / 'out'), pytest.raises(DeployError, match='took over 0.5 s'):
        slim.deploy.to_lite(
            saved, tmp_path / 'out' / 'net', opt=script(tmp_path / 'slow', 'exec sleep 60'), timeout=0.5
        )


def test_half_a_file_from_the_converter(saved: Path, tmp_path: Path) -> None:
    """A converter on a full device may end well and leave half a file."""
    whole = slim.deploy.to_lite(saved, tmp_path / 'whole').file
    (tmp_path / 'out').mkdir()
    opt = script(
        tmp_path / 'opt',
        f'for a in "$@"; do case $a in --optimize_out=*) head -c 900 {whole} > "${{a#*=}}.nb";; esac; done',
    )
    with unchanged(tmp_path / 'out'), pytest.raises(DeployError, match='cannot be read, perhaps on a full disk'):
        slim.deploy.to_lite(saved, tmp_path / 'out' / 'net', opt=opt)


FULL_DEVICE = """
import resource, signal, sys
import paddle
import paddleslim_ng as slim
paddle.enable_static()
slim.deploy.find_interpreter()
limit = int(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    slim.deploy.to_lite(sys.argv[1], sys.argv[2])
except slim.errors.DeployError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize('limit', [100, 2500])
def test_full_device(limit: int, saved: Path, tmp_path: Path) -> None:
    """Files may not grow beyond a limit: the program cannot be written, or the converter cannot write its result."""
    (tmp_path / 'out').mkdir()
    sizes = [saved.with_suffix('.pdmodel').stat().st_size, slim.deploy.to_lite(saved, tmp_path / 'whole').file_bytes]
    assert sizes[0] > 100
    assert sizes[1] > 2500
    command = [sys.executable, '-c', FULL_DEVICE, str(saved), str(tmp_path / 'out' / 'net'), str(limit)]
    with unchanged(tmp_path / 'out'):
        done = subprocess.run(command, cwd=nets.ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert any(words in done.stderr for words in ('cannot write', 'SIGXFSZ', 'cannot be read', 'failed'))


def test_unwritable_folder(saved: Path, tmp_path: Path) -> None:
    (tmp_path / 'file').write_bytes(OLD)
    with pytest.raises(DeployError, match='cannot write'):
        slim.deploy.to_lite(saved, tmp_path / 'file' / 'net')
    with pytest.raises(DeployError, match='cannot write'):
        slim.deploy.to_lite(saved, Path('/proc/net'))
    (tmp_path / 'taken.nb').mkdir()
    with pytest.raises(DeployError, match='cannot write'):
        slim.deploy.to_lite(saved, tmp_path / 'taken')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'taken.nb']


def test_file_that_computes_something_else(saved: Path, tmp_path: Path) -> None:
    """The converter is replaced by one that converts another model."""
    other = nets.save(nets.build(body, (1, 6, 6), seed=5), tmp_path / 'other', 'pdmodel')
    wrong = slim.deploy.to_lite(other, tmp_path / 'wrong', 'x86').file
    opt = script(
        tmp_path / 'opt', f'for a in "$@"; do case $a in --optimize_out=*) cp {wrong} "${{a#*=}}.nb";; esac; done'
    )
    (tmp_path / 'out').mkdir()
    with unchanged(tmp_path / 'out'), pytest.raises(EquivalenceError, match='differ from the reference'):
        slim.deploy.to_lite(saved, tmp_path / 'out' / 'net', 'x86', opt=opt)
    with unchanged(tmp_path / 'out'), pytest.raises(DeployError, match="nothing of the model runs on 'arm'"):
        slim.deploy.to_lite(saved, tmp_path / 'out' / 'net', 'arm', opt=opt)


def test_no_interpreter(saved: Path, tmp_path: Path) -> None:
    with unchanged(tmp_path), pytest.raises(DeployError, match='python3.10 -m venv'):
        slim.deploy.to_lite(saved, tmp_path / 'net', interpreter='no_such_python')
    assert find_interpreter()
