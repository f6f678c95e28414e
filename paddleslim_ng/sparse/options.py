"""What a pruner of single weights is asked for, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.sparse.layer_ratios import PROTOCOLS
from paddleslim_ng.sparse.n_of_m import Pattern

__all__ = ['MODES', 'PARAMS_TYPES', 'LayerRatios', 'Options', 'check_ratio']

MODES = ('ratio', 'threshold')
PARAMS_TYPES = (None, 'conv1x1_only')
LayerRatios = Union[str, Mapping[str, float], None]


@dataclass(frozen=True)
class Options:
    """The choices that do not change during training.

    Attributes:
        mode: ``'ratio'`` or ``'threshold'``.
        local: every parameter is ranked by itself.
        block: rows and columns of the blocks that stay or leave whole.
        pattern: N:M, or None.
        layer_ratios: a protocol of :mod:`layer_ratios`, ratios by parameter, or None.
        regrowth: weights that have left keep their value aside and may come back.
    """

    mode: str
    local: bool
    block: tuple[int, int]
    pattern: Pattern | None
    layer_ratios: LayerRatios
    regrowth: bool

    @classmethod
    def of(
        cls,
        mode: str,
        local: bool,
        block: Sequence[int],
        pattern: str | None,
        layer_ratios: LayerRatios,
        regrowth: bool,
    ) -> Options:
        """Check the arguments of a pruner.

        Raises:
            ConfigError: a value is unusable, or two of them exclude each other.
        """
        if mode not in MODES:
            raise ConfigError(f'mode is one of {MODES}, not {mode!r}')
        sizes = tuple(block)
        if len(sizes) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
            raise ConfigError(f'sparse_block is two positive whole numbers, not {list(block)!r}')
        if isinstance(layer_ratios, str) and layer_ratios not in PROTOCOLS:
            raise ConfigError(
                f'layer_ratios is one of {", ".join(PROTOCOLS)} or a mapping, not {layer_ratios!r}'
                f'{nearest_names(layer_ratios, PROTOCOLS)}'
            )
        parsed = Pattern.parse(pattern) if pattern is not None else None
        blocks, layers = sizes != (1, 1), local or layer_ratios is not None
        for wrong, reason in (
            (mode == 'threshold' and layers, "local_sparsity and layer_ratios need mode='ratio'"),
            (mode == 'threshold' and regrowth, "regrowth needs mode='ratio': below a threshold, nothing comes back"),
            (parsed and mode == 'threshold', "a pattern needs mode='ratio'"),
            (parsed and (blocks or layers), 'a pattern excludes sparse_block, local_sparsity and layer_ratios'),
            (local and layer_ratios is not None, 'give local_sparsity or layer_ratios, not both'),
        ):
            if wrong:
                raise ConfigError(reason)
        return cls(mode, local, (sizes[0], sizes[1]), parsed, layer_ratios, regrowth)

    @property
    def by_layer(self) -> bool:
        """Whether every parameter has a threshold of its own."""
        return self.local or self.layer_ratios is not None


def check_ratio(ratio: float, what: str = 'ratio') -> float:
    """Return a ratio.

    Raises:
        ConfigError: it is no number from 0 to 1.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1:
        raise ConfigError(f'{what} is a number from 0 to 1, not {ratio!r}')
    return float(ratio)
