"""The ``.json`` files of PIR programs, checked before Paddle sees them: it takes some faults in silence, and crashes.

A file has a header and a program of nested regions, blocks and operators. An operator has a dialect and name (``1`` is
``pd_op``), attributes ``A``, and numbered operands ``I`` and results ``O``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.errors import DataError, UnsupportedOpError

__all__ = ['check_pir_json']

_MAGIC: Final = 'pir'
_PADDLE_OPS: Final = '1.'
_CUSTOM_OPS: Final = '3.'
# Operators that Paddle has without a Python function that builds them.
_NOT_BUILT: Final = frozenset(
    {
        'assert',
        'feed',
        'if',
        'pylayer',
        'select_input',
        'select_output',
        'shadow_feed',
        'shadow_feed_tensors',
        'sync_batch_norm',
        'while',
    }
)


def check_pir_json(path: Path) -> None:
    """Check that a file holds a PIR program whose operators this Paddle knows and whose values are defined.

    Raises:
        DataError: it is missing, no JSON, no PIR program, or uses a value before it is defined.
        UnsupportedOpError: it has operators that this Paddle does not know; all of them are listed.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f'cannot read {path}: {error.strerror}') from error
    except ValueError as error:
        raise DataError(f'{path} is damaged or truncated: it is no JSON ({error})') from error
    try:
        if content['base_code']['magic'] != _MAGIC:
            raise DataError(f'{path} is no PIR program: its header says {content["base_code"]["magic"]!r}')
        regions = content['program']['regions']
        _refuse_unknown(path, regions)
        _check_values(path, regions, set())
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f'{path} is damaged or no PIR program: something of the kind {error!r} is missing or out of place'
        ) from error


def _operators(regions: list[Any]) -> Iterator[Any]:
    for region in regions:
        for block in region['blocks']:
            for op in block['ops']:
                yield op
                yield from _operators(op.get('regions', []))


def _refuse_unknown(path: Path, regions: list[Any]) -> None:
    counts = Counter(op['#'] for op in _operators(regions) if not _is_known(op['#']))
    if counts:
        listed = ', '.join(f'{name.partition(".")[2] or name} ({count}x)' for name, count in counts.items())
        first = next(iter(counts)).partition('.')[2]
        raise UnsupportedOpError(f'{path} has operators that this Paddle does not know: {listed}', op=first)


def _is_known(identity: str) -> bool:
    name = identity.partition('.')[2]
    if identity.startswith(_PADDLE_OPS):
        return name in _NOT_BUILT or paddle_compat.pir_builds(name)
    if identity.startswith(_CUSTOM_OPS):
        return paddle_compat.operator_proto(name.rstrip('_')) is not None
    return True  # the parameters and vectors of every program; Paddle itself refuses other dialects


def _check_values(path: Path, regions: list[Any], outer: set[int]) -> None:
    """Check that operands are defined before they are used; 0 is an operand left out."""
    for region in regions:
        for block in region['blocks']:
            defined = set(outer)
            for argument in block.get('args', []):
                defined.add(argument['%'] if '%' in argument else argument['#'])
            for op in block['ops']:
                for operand in op.get('I', []):
                    if operand['%'] != 0 and operand['%'] not in defined:
                        raise DataError(f'{path} is damaged: {op["#"]} reads value {operand["%"]}, which nothing makes')
                _check_values(path, op.get('regions', []), defined)
                results = op['O'] if isinstance(op['O'], list) else [op['O']]
                defined.update(result['%'] for result in results)
