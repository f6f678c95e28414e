"""Scales of quantization-aware training in the scope: their first values, and who maintains them.

A training program updates scales that an evaluation program reads, by name. Names that differ leave the evaluation
program with scales that nothing ever updates, so whichever of the two is quantized second checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np

from paddleslim_ng.core import has_array, load_array, store_array
from paddleslim_ng.errors import GraphError, nearest_names
from paddleslim_ng.quant.aware_types import AwareQuantizer

__all__ = ['ScaleUse', 'check_scales', 'check_updated', 'remember_scales', 'store_initial']

# What evaluation programs read that no training program maintains yet; and what training programs maintain. Programs
# belong together where they have weights in common.
_EXPECTED: Final = '@paddleslim_ng.quant_expected'
_MAINTAINED: Final = '@paddleslim_ng.quant_maintained'


class ScaleUse(NamedTuple):
    """The scales that a quantized program keeps in the scope, and the weights by which its network is known."""

    weights: list[str]
    scales: list[str]

    def related(self, others: Iterable[ScaleUse]) -> list[ScaleUse]:
        """Return those of some programs that are of the same network."""
        return [other for other in others if set(self.weights) & set(other.weights)]


def store_initial(scope: Any, quantizers: Iterable[AwareQuantizer], place: Any, *, training: bool) -> None:
    """Put first values of scales and counters into a scope; evaluation programs leave those that are there."""
    for quantizer in quantizers:
        for name, value in quantizer.initial.items():
            if training or not has_array(scope, name):
                store_array(scope, name, value, place)


def check_scales(scope: Any, use: ScaleUse, *, training: bool) -> None:
    """Check that training maintains what evaluation reads, where the other one of both programs came before.

    Raises:
        GraphError: it does not; the message names the scales.
    """
    others = use.related(_uses(scope, _EXPECTED if training else _MAINTAINED))
    read = [scale for other in others for scale in other.scales] if training else use.scales
    maintained = use.scales if training else [scale for other in others for scale in other.scales]
    missing = sorted(set(read) - set(maintained)) if others else []
    if missing:
        raise GraphError(
            f'no training program maintains the scales {missing[:8]} that the evaluation program reads'
            f'{nearest_names(missing[0], maintained)}: build both programs with the same names, as '
            'paddle.utils.unique_name.guard or clone(for_test=True) gives them, and quantize them alike'
        )


def remember_scales(scope: Any, use: ScaleUse, *, training: bool) -> None:
    """Note in a scope what a program keeps there, for :func:`check_scales` of the other one."""
    expected, maintained = _uses(scope, _EXPECTED), _uses(scope, _MAINTAINED)
    if training:
        _store(scope, _EXPECTED, [other for other in expected if other not in use.related(expected)])
        _store(scope, _MAINTAINED, [*(other for other in maintained if other not in use.related(maintained)), use])
    elif not use.related(maintained):
        _store(scope, _EXPECTED, [*expected, use])


def check_updated(scope: Any, counts: Iterable[tuple[str, str]]) -> None:
    """Check that training has updated scales.

    Args:
        scope: holds the counters.
        counts: pairs of a tensor and of the name of its counter.

    Raises:
        GraphError: a counter is missing or zero; the message names the tensors.
    """
    stale = [name for name, count in counts if not (has_array(scope, count) and load_array(scope, count).max() > 0)]
    if stale:
        raise GraphError(
            f'no step of a quantized training program has updated the scales of {stale[:8]}: train first, in this '
            'scope, or load what was trained'
        )


def _uses(scope: Any, key: str) -> list[ScaleUse]:
    if not has_array(scope, key):
        return []
    return [ScaleUse(*item) for item in json.loads(load_array(scope, key).tobytes().decode('utf-8'))]


def _store(scope: Any, key: str, uses: list[ScaleUse]) -> None:
    store_array(scope, key, np.frombuffer(json.dumps(uses).encode('utf-8'), np.uint8).copy())
