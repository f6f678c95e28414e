"""ShuffleNetV2 (Ma et al., 2018): channel split, concatenation and shuffle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import paddle

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.models.layers import channel_shuffle, conv_bn, global_average, linear, max_pool
from paddleslim_ng.models.network import Network

__all__ = ['ShuffleNetV2']

_WIDTHS: Final[Mapping[float, tuple[int, int, int, int, int]]] = {
    0.25: (24, 24, 48, 96, 512),
    0.33: (24, 32, 64, 128, 512),
    0.5: (24, 48, 96, 192, 1024),
    1.0: (24, 116, 232, 464, 1024),
    1.5: (24, 176, 352, 704, 1024),
    2.0: (24, 224, 488, 976, 2048),
}
_DEPTHS: Final[tuple[int, int, int]] = (4, 8, 4)


class ShuffleNetV2(Network):
    """ShuffleNetV2. Layers: ``stage1_conv``, ``stage_2_1_conv1`` ... ``_conv5``, ..., ``conv5``, ``fc6``.

    In the first unit of a stage ``conv1`` to ``conv3`` are the main branch, ``conv4`` and ``conv5`` the other one.

    Args:
        scale: one of 0.25, 0.33, 0.5, 1.0, 1.5, 2.0 (the widths are a table, not a multiple).
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale)
        if self.scale not in _WIDTHS:
            raise ConfigError(f'ShuffleNetV2: scale must be one of {sorted(_WIDTHS)}, not {scale!r}')

    def _build(self, image: Any, class_dim: int) -> Any:
        stem, *stages, last = _WIDTHS[self.scale]
        y = max_pool(conv_bn(image, stem, 3, name='stage1_conv', stride=2, act='relu'), 3, 2, padding=1)
        for stage, (width, depth) in enumerate(zip(stages, _DEPTHS), start=2):
            y = _down_unit(y, width, f'stage_{stage}_1')
            for index in range(2, depth + 1):
                y = _basic_unit(y, f'stage_{stage}_{index}')
        y = conv_bn(y, last, 1, name='conv5', act='relu')
        return linear(global_average(y), class_dim, weight='fc6_weights', bias='fc6_offset')


def _main_branch(x: Any, width: int, stride: int, name: str) -> Any:
    y = conv_bn(x, width, 1, name=f'{name}_conv1', act='relu')
    y = conv_bn(y, width, 3, name=f'{name}_conv2', stride=stride, groups=width)
    return conv_bn(y, width, 1, name=f'{name}_conv3', act='relu')


def _basic_unit(x: Any, name: str) -> Any:
    half = int(x.shape[1]) // 2
    kept, changed = paddle.split(x, 2, axis=1)
    return channel_shuffle(paddle.concat([kept, _main_branch(changed, half, 1, name)], axis=1), 2)


def _down_unit(x: Any, width: int, name: str) -> Any:
    channels = int(x.shape[1])
    side = conv_bn(x, channels, 3, name=f'{name}_conv4', stride=2, groups=channels)
    side = conv_bn(side, width // 2, 1, name=f'{name}_conv5', act='relu')
    return channel_shuffle(paddle.concat([side, _main_branch(x, width // 2, 2, name)], axis=1), 2)
