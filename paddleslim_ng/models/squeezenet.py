"""SqueezeNet (Iandola et al., 2016): fire modules, no fully connected layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import paddle
import paddle.nn.functional as F  # noqa: N812

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.models.layers import conv, global_average, max_pool, scaled
from paddleslim_ng.models.network import Network

__all__ = ['SqueezeNet']

# version -> (channels and kernel of the first convolution, fire modules that a max pool precedes)
_VERSIONS: Final[Mapping[str, tuple[int, int, tuple[int, ...]]]] = {
    '1.0': (96, 7, (2, 5, 9)),
    '1.1': (64, 3, (2, 4, 6)),
}
_SQUEEZE: Final[tuple[int, ...]] = (16, 16, 32, 32, 48, 48, 64, 64)
_FIRST: Final[int] = 2


class SqueezeNet(Network):
    """SqueezeNet. Layers: ``conv1``, ``fire2_squeeze1x1``, ``fire2_expand1x1``, ``fire2_expand3x3``, ..., ``conv10``.

    Args:
        scale: width multiplier.
        version: ``'1.1'`` (default; the same accuracy with 2.4 times less computation) or ``'1.0'``.
    """

    def __init__(self, scale: float = 1.0, version: str = '1.1') -> None:
        super().__init__(scale)
        if version not in _VERSIONS:
            raise ConfigError(f'SqueezeNet: version must be one of {sorted(_VERSIONS)}, not {version!r}')
        self.version = version

    def _build(self, image: Any, class_dim: int) -> Any:
        stem, kernel, pooled = _VERSIONS[self.version]
        y = conv(image, scaled(stem, self.scale), kernel, name='conv1', stride=2, bias=True, act='relu')
        for index, width in enumerate(_SQUEEZE, start=_FIRST):
            if index in pooled:
                y = max_pool(y, 3, 2, ceil_mode=True)
            y = _fire(y, scaled(width, self.scale), f'fire{index}')
        y = conv(F.dropout(y, 0.5), class_dim, 1, name='conv10', bias=True, act='relu')
        return global_average(y)


def _fire(x: Any, width: int, name: str) -> Any:
    y = conv(x, width, 1, name=f'{name}_squeeze1x1', bias=True, act='relu')
    one = conv(y, width * 4, 1, name=f'{name}_expand1x1', bias=True, act='relu')
    three = conv(y, width * 4, 3, name=f'{name}_expand3x3', bias=True, act='relu')
    return paddle.concat([one, three], axis=1)
