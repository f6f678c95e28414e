"""MobileNetV1 (Howard et al., 2017): depthwise separable convolutions in a plain stack."""

from __future__ import annotations

from typing import Any, Final

from paddleslim_ng.models.layers import conv_bn, global_average, linear, scaled
from paddleslim_ng.models.network import Network

__all__ = ['MobileNet']

# (layer name, output channels, stride of the depthwise convolution)
_BLOCKS: Final[tuple[tuple[str, int, int], ...]] = (
    ('conv2_1', 64, 1),
    ('conv2_2', 128, 2),
    ('conv3_1', 128, 1),
    ('conv3_2', 256, 2),
    ('conv4_1', 256, 1),
    ('conv4_2', 512, 2),
    ('conv5_1', 512, 1),
    ('conv5_2', 512, 1),
    ('conv5_3', 512, 1),
    ('conv5_4', 512, 1),
    ('conv5_5', 512, 1),
    ('conv5_6', 1024, 2),
    ('conv6', 1024, 1),
)


class MobileNet(Network):
    """MobileNetV1. Layers: ``conv1``, ``conv2_1_dw``, ``conv2_1_sep``, ..., ``conv6_sep``, ``fc7``."""

    def net(self, input: Any, class_dim: int = 1000, scale: float | None = None) -> Any:
        """Append the network and return class probabilities; ``scale`` overrides the constructor's.

        See :meth:`Network.net`.
        """
        if scale is not None:
            Network.__init__(self, scale)
        return super().net(input, class_dim)

    def _build(self, image: Any, class_dim: int) -> Any:
        y = conv_bn(image, scaled(32, self.scale), 3, name='conv1', stride=2, act='relu')
        for name, filters, stride in _BLOCKS:
            width = int(y.shape[1])
            y = conv_bn(y, width, 3, name=f'{name}_dw', stride=stride, groups=width, act='relu')
            y = conv_bn(y, scaled(filters, self.scale), 1, name=f'{name}_sep', act='relu')
        return linear(global_average(y), class_dim, weight='fc7_weights', bias='fc7_offset')
