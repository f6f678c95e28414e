"""Losses on small random arrays, each with its reference in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng import dist
from tests.dist import losses_numpy as reference

Array = npt.NDArray[Any]


class Case(NamedTuple):
    """A loss, what it is built from, and what it should give.

    Attributes:
        shapes: ``{name: shape}``; ``y`` holds labels of as many classes as ``s`` has.
        build: takes the program and the startup program.
        reference: takes the arrays by name.
    """

    shapes: Mapping[str, tuple[int, ...]]
    build: Callable[[Any, Any], Any]
    reference: Callable[..., float]

    @property
    def students(self) -> list[str]:
        return [name for name in self.shapes if name.startswith('s')]

    def arrays(self, batch: int | None = None, scale: float = 2.0, seed: int = 0) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        found: dict[str, Array] = {}
        for name, shape in self.shapes.items():
            sizes = shape if batch is None else (batch, *shape[1:])
            found[name] = rng.standard_normal(sizes) * scale if name != 'y' else rng.integers(0, 5, sizes)
        return found


def _halves(t: Array, s: Array, y: Array) -> float:
    return 0.5 * reference.hard_label(y, s) + 0.5 * 4**2 * reference.soft_label(t, s, 4, 4)


def _pocketflow(t: Array, s: Array, y: Array) -> float:
    return reference.hard_label(y, s) + 4 * reference.soft_label(t, s, 4, 4)


_LOGITS = {'t': (4, 5), 's': (4, 5)}
_LABELLED = {**_LOGITS, 'y': (4, 1)}
_MAPS = {'t': (3, 2, 2, 4), 's': (3, 2, 2, 4)}
_SIZES = {'t': (3, 2, 2, 4), 's': (3, 4, 4, 2)}
_SAMPLES = {'t': (4, 2, 2, 1), 's': (4, 3)}

LOGITS: dict[str, Case] = {
    'soft_label': Case(_LOGITS, lambda m, _: dist.soft_label('t', 's', m), reference.soft_label),
    'soft_label of sequences': Case(
        {'t': (2, 3, 5), 's': (2, 3, 5)}, lambda m, _: dist.soft_label('t', 's', m), reference.soft_label
    ),
    'soft_label, temperatures': Case(
        _LOGITS,
        lambda m, _: dist.soft_label_loss('t', 's', m, 2.0, 3.0, scale_by_temperature=True),
        lambda t, s: 6 * reference.soft_label(t, s, 2, 3),
    ),
    'hinton': Case(_LABELLED, lambda m, _: dist.hinton('t', 's', 'y', m, temperature=4), _halves),
    'hinton as in PocketFlow': Case(
        {**_LOGITS, 'y': (4,)},
        lambda m, _: dist.hinton(
            't', 's', 'y', m, temperature=4, hard_weight=1, soft_weight=4, scale_by_temperature=False
        ),
        _pocketflow,
    ),
    'dkd': Case(_LOGITS, lambda m, _: dist.dkd('t', 's', m, 2.0, 1.0, 4.0), lambda t, s: reference.dkd(t, s, 2, 1, 4)),
    'dkd with labels': Case(
        _LABELLED,
        lambda m, _: dist.dkd('t', 's', m, 0.5, 2.0, 3.0, label='y'),
        lambda t, s, y: reference.dkd(t, s, 0.5, 2, 3, y),
    ),
    'skd': Case(_LOGITS, lambda m, _: dist.skd('t', 's', m), reference.skd),
    'skd with a multiplier': Case(
        _LOGITS, lambda m, _: dist.skd('t', 's', m, 1.5), lambda t, s: reference.skd(t, s, 1.5)
    ),
    'correlation': Case(
        _LOGITS,
        lambda m, _: dist.correlation('t', 's', m, temperature=2, between=1, within=3),
        lambda t, s: reference.correlation(t, s, 2, 1, 3),
    ),
}

FEATURES: dict[str, Case] = {
    'l2': Case(_MAPS, lambda m, _: dist.l2_loss('t', 's', m), reference.l2),
    'fsp': Case(
        {'t1': (3, 2, 4, 4), 't2': (3, 3, 4, 4), 's1': (3, 2, 2, 3), 's2': (3, 3, 2, 3)},
        lambda m, _: dist.fsp_loss('t1', 't2', 's1', 's2', m),
        reference.fsp,
    ),
    'attention_transfer': Case(_SIZES, lambda m, _: dist.attention_transfer('t', 's', m), reference.attention_transfer),
    'attention_transfer, absolute': Case(
        _MAPS,
        lambda m, _: dist.attention_transfer('t', 's', m, power=1),
        lambda t, s: reference.attention_transfer(t, s, 1),
    ),
    'attention_transfer, cubes': Case(
        _MAPS,
        lambda m, _: dist.attention_transfer('t', 's', m, power=3),
        lambda t, s: reference.attention_transfer(t, s, 3),
    ),
    'cosine': Case(_MAPS, lambda m, _: dist.cosine('t', 's', m), reference.cosine),
    'cosine of embeddings': Case(
        _MAPS, lambda m, _: dist.cosine('t', 's', m, axis=-1), lambda t, s: reference.cosine(t, s, -1)
    ),
    'regression without adapter': Case(
        {'t': (3, 2, 2, 4), 's': (3, 2, 4, 4)},
        lambda m, p: dist.regression('t', 's', m, p),
        lambda t, s: reference.l2(t, reference.pooled(s, 2, 4)),
    ),
}

RELATIONS: dict[str, Case] = {
    'rkd_distance': Case(_SAMPLES, lambda m, _: dist.rkd_distance('t', 's', m), reference.rkd_distance),
    'rkd_angle': Case(_SAMPLES, lambda m, _: dist.rkd_angle('t', 's', m), reference.rkd_angle),
    'similarity': Case(_SAMPLES, lambda m, _: dist.similarity('t', 's', m), reference.similarity),
}

CASES: dict[str, Case] = {**LOGITS, **FEATURES, **RELATIONS}
