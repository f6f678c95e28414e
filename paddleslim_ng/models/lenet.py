"""LeNet-5 (LeCun et al., 1998), with today's rectifiers and maximum pooling."""

from __future__ import annotations

from typing import Any, ClassVar

import paddle

from paddleslim_ng.models.layers import conv, linear, max_pool, scaled
from paddleslim_ng.models.network import Network

__all__ = ['LeNet']


class LeNet(Network):
    """LeNet-5. Layers: ``conv1``, ``conv2``, ``fc3``, ``fc4``, ``fc5``; 61,706 parameters for MNIST.

    The first convolution pads by two, so that images of 28 pixels give what the paper's 32 give without padding.

    Args:
        scale: width multiplier, of the fully connected layers too.
    """

    minimum_size: ClassVar[int] = 12

    def _build(self, image: Any, class_dim: int) -> Any:
        y = max_pool(conv(image, scaled(6, self.scale), 5, name='conv1', bias=True, act='relu'), 2, 2)
        y = max_pool(conv(y, scaled(16, self.scale), 5, name='conv2', padding=0, bias=True, act='relu'), 2, 2)
        y = paddle.flatten(y, 1)
        for name, width in (('fc3', 120), ('fc4', 84)):
            size = scaled(width, self.scale)
            y = linear(y, size, weight=f'{name}_weights', bias=f'{name}_offset', act='relu')
        return linear(y, class_dim, weight='fc5_weights', bias='fc5_offset')
