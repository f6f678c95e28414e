"""The parent's side of :mod:`paddleslim_ng.deploy.onnx_worker`, and what it needs to know of an ONNX file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import DeployError
from paddleslim_ng.runtime.worker_process import cause_of_death, worker_environment

__all__ = ['ask', 'opset_of', 'run_onnx']

_WORKER = 'paddleslim_ng.deploy.onnx_worker'


def ask(command: str, job: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Run one command of the worker and return its answer.

    Raises:
        DeployError: it failed, crashed or took too long; the message has the line that says why.
    """
    try:
        done = subprocess.run(
            [sys.executable, '-m', _WORKER, command],
            input=json.dumps(job),
            env=worker_environment(),
            capture_output=True,
            text=True,
            errors='replace',
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeployError(f'ONNX {command} took over {timeout:g} s: raise timeout') from error
    if done.returncode:
        raise DeployError(f'ONNX {command} failed: {cause_of_death(done.returncode, _telling(done.stderr))}')
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _telling(log: str) -> str:
    """Return the line of a log that says what was wrong, or all of it."""
    lines = [line.strip() for line in log.splitlines()]
    marks = ('Oops', 'Failed to convert', '[ERROR]', 'Error:')
    return next((line for mark in marks for line in lines if mark in line), log)


def run_onnx(
    file: Path, feeds: Sequence[Mapping[str, npt.NDArray[Any]]], timeout: float
) -> list[list[npt.NDArray[Any]]]:
    """Run an ONNX file in onnxruntime on each of the feeds and return the outputs of each, in order.

    Raises:
        DeployError: onnxruntime refused or crashed.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index, arrays in enumerate(feeds):
            paths.append({name: f'{folder}/in{index}_{at}.npy' for at, name in enumerate(arrays)})
            for name, array in arrays.items():
                np.save(paths[-1][name], array)
        answer = ask('run', {'model': str(file.resolve()), 'feeds': paths, 'folder': folder}, timeout)
        return [[np.load(path) for path in outputs] for outputs in answer['outputs']]


def opset_of(content: bytes) -> int:
    """Return the version of the default operator set in an ONNX file: field 8 of the model, field 2 in that."""
    for number, value in _fields(content):
        if number == 8 and isinstance(value, bytes):
            entry = dict(_fields(value))
            if not entry.get(1) and isinstance(entry.get(2), int):
                return int(entry[2])
    raise DeployError('paddle2onnx wrote a file without an operator set')


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of the fields of a protobuf message that are integers or have a length."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if kind == 2:
            yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
