"""Decompression in a separate, clean interpreter.

Once Paddle 2.6 is loaded, its copy of zlib shadows the one that Python and Pillow were built for: reading a ``.gz``
or a ``.png`` in the same process fails or crashes. What needs zlib therefore happens in a child that never imports
Paddle.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.errors import DataError

__all__ = ['ImageDecoder', 'read_gzip', 'zlib_is_shadowed']

_GUNZIP: Final[str] = """
import gzip, shutil, sys
with gzip.open(sys.argv[1]) as source:
    shutil.copyfileobj(source, sys.stdout.buffer)
"""
_DECODE: Final[str] = """
import json, sys
from PIL import Image
for line in sys.stdin:
    request = json.loads(line)
    try:
        with Image.open(request['path']) as image:
            image = image.convert(request['mode'])
        reply, body = {'size': image.size}, image.tobytes()
    except Exception as error:
        reply, body = {'error': f'{type(error).__name__}: {error}'}, b''
    sys.stdout.buffer.write(json.dumps(reply).encode() + b'\\n' + body)
    sys.stdout.buffer.flush()
"""
_BANDS: Final[dict[str, int]] = {'L': 1, 'RGB': 3}


def zlib_is_shadowed() -> bool:
    """Tell whether the running Paddle is one whose zlib gets in the way (2.x)."""
    return str(paddle.__version__).startswith('2.')


def read_gzip(path: str | os.PathLike[str]) -> bytes:
    """Return the decompressed content of a gzip file.

    Raises:
        DataError: the file is missing or is not a whole gzip file.
    """
    if not Path(path).is_file():
        raise DataError(f'there is no file {os.fspath(path)!r}')
    done = subprocess.run([sys.executable, '-c', _GUNZIP, os.fspath(path)], capture_output=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors='replace').strip().splitlines()[-1:]
        raise DataError(f'{os.fspath(path)!r} cannot be decompressed: {" ".join(reason)}')
    return done.stdout


class ImageDecoder:
    """Reads image files into arrays, in this process or, where zlib is shadowed, in one long-lived child.

    Args:
        isolated: use the child; None decides by the running Paddle.
    """

    def __init__(self, isolated: bool | None = None) -> None:
        self._isolated = zlib_is_shadowed() if isolated is None else isolated
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def __getstate__(self) -> dict[str, Any]:
        return {'_isolated': self._isolated, '_child': None, '_owner': 0}

    def decode(self, path: str | os.PathLike[str], channels: int = 3) -> npt.NDArray[np.uint8]:
        """Return the image as uint8 [height, width, channels]; 1 channel is grey, 3 are RGB.

        Raises:
            DataError: the file is missing or is no image that Pillow reads, or Pillow is not installed.
        """
        if not Path(path).is_file():
            raise DataError(f'there is no image {os.fspath(path)!r}')
        mode = 'L' if channels == 1 else 'RGB'
        pixels, width, height = (self._ask if self._isolated else _decode_here)(os.fspath(path), mode)
        return np.frombuffer(pixels, np.uint8).reshape(height, width, _BANDS[mode])

    def _ask(self, path: str, mode: str) -> tuple[bytes, int, int]:
        child = self._running_child()
        if child.stdin is None or child.stdout is None:
            raise DataError('the image decoder has no pipes to its child process')
        try:
            child.stdin.write(json.dumps({'path': path, 'mode': mode}).encode() + b'\n')
            child.stdin.flush()
            header = child.stdout.readline()
        except BrokenPipeError:
            header = b''
        if not header:
            self._child = None
            raise DataError(
                f'cannot read {path!r}: the decoding process ended; is Pillow installed? (pip install pillow)'
            )
        reply = json.loads(header)
        if 'error' in reply:
            raise DataError(f'{path!r} is not a readable image: {reply["error"]}')
        width, height = reply['size']
        return child.stdout.read(width * height * _BANDS[mode]), width, height

    def _running_child(self) -> subprocess.Popen[bytes]:
        """Start the child when there is none of this very process (loader workers are forks)."""
        if self._child is None or self._owner != os.getpid():
            pipe = subprocess.PIPE
            self._child = subprocess.Popen(
                [sys.executable, '-c', _DECODE], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
            )
            self._owner = os.getpid()
            weakref.finalize(self, _stop, self._child, self._owner)
        return self._child


def _stop(child: subprocess.Popen[bytes], owner: int) -> None:
    if owner != os.getpid():
        return
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
    child.wait()


def _decode_here(path: str, mode: str) -> tuple[bytes, int, int]:
    image_module = import_pillow()
    try:
        with image_module.open(path) as image:
            converted = image.convert(mode)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f'{path!r} is not a readable image: {type(error).__name__}: {error}') from error
    return converted.tobytes(), *converted.size


def import_pillow() -> Any:
    """Return the module ``PIL.Image``.

    Raises:
        DataError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError('reading images needs Pillow: pip install pillow') from error
    return Image
