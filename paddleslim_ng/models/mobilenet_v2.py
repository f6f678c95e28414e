"""MobileNetV2 (Sandler et al., 2018): inverted residuals with linear bottlenecks."""

from __future__ import annotations

from typing import Any, Final

from paddleslim_ng.models.layers import conv_bn, global_average, linear, scaled
from paddleslim_ng.models.network import Network

__all__ = ['MobileNetV2']

# (expansion, output channels, blocks, stride of the first block); stages are conv2 ... conv8
_STAGES: Final[tuple[tuple[int, int, int, int], ...]] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(Network):
    """MobileNetV2. Layers: ``conv1_1``, ``conv2_1_expand``, ``_dwise``, ``_linear``, ..., ``conv9``, ``fc10``.

    As in Paddle's published weights, the first block has an expansion convolution too (of factor 1).
    """

    def _build(self, image: Any, class_dim: int) -> Any:
        y = conv_bn(image, scaled(32, self.scale), 3, name='conv1_1', stride=2, act='relu6')
        for stage, (expansion, filters, blocks, stride) in enumerate(_STAGES, start=2):
            for block in range(blocks):
                step = stride if block == 0 else 1
                y = _block(y, scaled(filters, self.scale), expansion, step, f'conv{stage}_{block + 1}', block > 0)
        y = conv_bn(y, scaled(1280, max(1.0, self.scale)), 1, name='conv9', act='relu6')
        return linear(global_average(y), class_dim, weight='fc10_weights', bias='fc10_offset')


def _block(x: Any, filters: int, expansion: int, stride: int, name: str, residual: bool) -> Any:
    width = int(x.shape[1]) * expansion
    y = conv_bn(x, width, 1, name=f'{name}_expand', act='relu6')
    y = conv_bn(y, width, 3, name=f'{name}_dwise', stride=stride, groups=width, act='relu6')
    y = conv_bn(y, filters, 1, name=f'{name}_linear')
    return x + y if residual else y
