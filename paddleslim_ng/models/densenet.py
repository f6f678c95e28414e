"""DenseNet (Huang et al., 2017): every layer sees the concatenation of all before it."""

from __future__ import annotations

from typing import Any, Final

import paddle

from paddleslim_ng.models.layers import (
    average_pool,
    batch_norm,
    conv,
    conv_bn,
    global_average,
    linear,
    max_pool,
    scaled,
)
from paddleslim_ng.models.network import Network

__all__ = ['DenseNet121']

_DEPTHS: Final[tuple[int, ...]] = (6, 12, 24, 16)
_GROWTH: Final[int] = 32
_BOTTLENECK: Final[int] = 4


class DenseNet121(Network):
    """DenseNet-121. Layers: ``conv1``, ``conv2_1_x1``, ``conv2_1_x2``, ..., ``conv2_blk``, ..., ``conv5_blk``, ``fc``.

    Args:
        scale: multiplies the growth rate, 32, and with it every width.
    """

    def _build(self, image: Any, class_dim: int) -> Any:
        growth = scaled(_GROWTH, self.scale)
        y = max_pool(conv_bn(image, 2 * growth, 7, name='conv1', stride=2, act='relu'), 3, 2, padding=1)
        for stage, depth in enumerate(_DEPTHS, start=2):
            for layer in range(1, depth + 1):
                y = _dense_layer(y, growth, f'conv{stage}_{layer}')
            if stage < len(_DEPTHS) + 1:
                y = _transition(y, f'conv{stage}_blk')
        y = batch_norm(y, name='conv5_blk_bn', act='relu')
        return linear(global_average(y), class_dim, weight='fc_weights', bias='fc_offset')


def _bn_conv(x: Any, filters: int, kernel: int, name: str) -> Any:
    return conv(batch_norm(x, name=f'{name}_bn', act='relu'), filters, kernel, name=name)


def _dense_layer(x: Any, growth: int, name: str) -> Any:
    y = _bn_conv(x, growth * _BOTTLENECK, 1, f'{name}_x1')
    return paddle.concat([x, _bn_conv(y, growth, 3, f'{name}_x2')], axis=1)


def _transition(x: Any, name: str) -> Any:
    y = _bn_conv(x, int(x.shape[1]) // 2, 1, name)
    return average_pool(y, 2, 2, ceil_mode=True)
