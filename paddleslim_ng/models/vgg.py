"""VGG (Simonyan and Zisserman, 2014): plain 3x3 convolutions and three wide fully connected layers."""

from __future__ import annotations

from typing import Any, Final

import paddle
import paddle.nn.functional as F  # noqa: N812

from paddleslim_ng.models.layers import conv, conv_bn, linear, max_pool, scaled
from paddleslim_ng.models.network import Network

__all__ = ['VGG16']

# (convolutions, channels) of the stages conv1 ... conv5
_STAGES: Final[tuple[tuple[int, int], ...]] = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


class VGG16(Network):
    """VGG-16. Layers: ``conv1_1``, ``conv1_2``, ``conv2_1``, ..., ``conv5_3``, ``fc6``, ``fc7``, ``fc8``.

    Args:
        scale: width multiplier, of the fully connected layers too.
        with_bn: convolution without bias and batch norm (``conv1_1_bn``) instead of convolution with bias.
    """

    def __init__(self, scale: float = 1.0, with_bn: bool = False) -> None:
        super().__init__(scale)
        self.with_bn = with_bn

    def _build(self, image: Any, class_dim: int) -> Any:
        y = image
        for stage, (depth, filters) in enumerate(_STAGES, start=1):
            for index in range(depth):
                y = self._conv(y, scaled(filters, self.scale), f'conv{stage}_{index + 1}')
            y = max_pool(y, 2, 2, ceil_mode=True)
        y, width = paddle.flatten(y, 1), scaled(4096, self.scale)
        for name in ('fc6', 'fc7'):
            y = F.dropout(linear(y, width, weight=f'{name}_weights', bias=f'{name}_offset', act='relu'), 0.5)
        return linear(y, class_dim, weight='fc8_weights', bias='fc8_offset')

    def _conv(self, x: Any, filters: int, name: str) -> Any:
        if self.with_bn:
            return conv_bn(x, filters, 3, name=name, act='relu')
        return conv(x, filters, 3, name=name, bias=True, act='relu')
