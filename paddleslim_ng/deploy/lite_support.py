"""Which operators of a model Paddle Lite lacks, by the converter's own list."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.deploy.interpreters import WORKER, find_interpreter
from paddleslim_ng.deploy.lite_options import TARGETS, check_options
from paddleslim_ng.deploy.lite_process import run_once
from paddleslim_ng.errors import DeployError

__all__ = ['lacking_operators', 'supported_operators']

_NOWHERE = 'kUnk'
_SECONDS = 60.0
# The converter folds them into the operators around them.
_FOLDED = re.compile(r'.*quantize.*|moving_average_abs_max_scale|feed|fetch|depend')


def lacking_operators(
    program: Any, target: str = 'arm', *, interpreter: str | os.PathLike[str] | None = None
) -> list[str]:
    """Return the types of the operators of a program for which Paddle Lite has no kernel on a device, sorted.

    Args:
        program: a legacy program, or a GraphWrapper of one, as the converter would get it.
        target: one of :data:`paddleslim_ng.deploy.lite_options.TARGETS`.
        interpreter: a Python with Paddle Lite; found where None.

    Raises:
        ConfigError: an unknown target.
        DeployError: no Python with Paddle Lite.
    """
    known = supported_operators(target, interpreter=interpreter)
    graph = program if isinstance(program, GraphWrapper) else GraphWrapper(program)
    used = {op.type() for op in graph.ops()}
    return sorted(name for name in used - known if not _FOLDED.fullmatch(name))


def supported_operators(target: str = 'arm', *, interpreter: str | os.PathLike[str] | None = None) -> frozenset[str]:
    """Return the types of all operators for which Paddle Lite has a kernel on a device or on the processor beside it.

    Arguments and errors are those of :func:`lacking_operators`.
    """
    check_options(target, 'fp32', None)
    return _supported(find_interpreter(interpreter).path, TARGETS[target].places)


@functools.lru_cache(maxsize=16)
def _supported(python: Path, places: str) -> frozenset[str]:
    log = run_once([python, WORKER, 'operators'], json.dumps({'targets': places}), _SECONDS, 'listing the operators')
    found = _parse(log)
    if not found:
        raise DeployError(f'Paddle Lite listed no operators for {places!r}: {log.strip()[-300:]}')
    return found


def _parse(log: str) -> frozenset[str]:
    """Read the converter's table: a row per operator, with a Y in the column of every device that has it."""
    lines = log.splitlines()
    start = next((at for at, line in enumerate(lines) if line.split()[:1] == ['OP_name']), len(lines))
    if start == len(lines):
        return frozenset()
    columns = {match[0]: range(*match.span()) for match in re.finditer(r'\S+', lines[start])}
    found = set()
    for line in lines[start + 1 :]:
        words = line.split()
        if len(words) > 1 and set(words[1:]) == {'Y'}:
            marks = [match.start() for match in re.finditer(r'\bY\b', line)]
            if any(mark not in columns.get(_NOWHERE, ()) for mark in marks):
                found.add(words[0])
    return frozenset(found)
