"""GoogLeNet (Szegedy et al., 2014): inception modules, without the auxiliary classifiers."""

from __future__ import annotations

from typing import Any, Final

import paddle
import paddle.nn.functional as F  # noqa: N812

from paddleslim_ng.models.layers import conv, global_average, linear, max_pool, scaled
from paddleslim_ng.models.network import Network

__all__ = ['GoogLeNet']

# name -> channels of (1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection)
_Module = tuple[str, tuple[int, int, int, int, int, int]]
_STAGES: Final[tuple[tuple[_Module, ...], ...]] = (
    (('ince3a', (64, 96, 128, 16, 32, 32)), ('ince3b', (128, 128, 192, 32, 96, 64))),
    (
        ('ince4a', (192, 96, 208, 16, 48, 64)),
        ('ince4b', (160, 112, 224, 24, 64, 64)),
        ('ince4c', (128, 128, 256, 24, 64, 64)),
        ('ince4d', (112, 144, 288, 32, 64, 64)),
        ('ince4e', (256, 160, 320, 32, 128, 128)),
    ),
    (('ince5a', (256, 160, 320, 32, 128, 128)), ('ince5b', (384, 192, 384, 48, 128, 128))),
)


class GoogLeNet(Network):
    """GoogLeNet. Layers: ``conv1``, ``conv2_1x1``, ``conv2_3x3``, ``inception_ince3a_1x1``, ..., ``out``.

    The branches of a module end in ``_1x1``, ``_3x3_reduce``, ``_3x3``, ``_5x5_reduce``, ``_5x5`` and ``_proj``.
    """

    def _build(self, image: Any, class_dim: int) -> Any:
        y = conv(image, scaled(64, self.scale), 7, name='conv1', stride=2, bias=True, act='relu')
        y = max_pool(y, 3, 2, ceil_mode=True)
        y = conv(y, scaled(64, self.scale), 1, name='conv2_1x1', bias=True, act='relu')
        y = conv(y, scaled(192, self.scale), 3, name='conv2_3x3', bias=True, act='relu')
        for modules in _STAGES:
            y = max_pool(y, 3, 2, padding=1)
            for name, widths in modules:
                y = _inception(y, [scaled(width, self.scale) for width in widths], f'inception_{name}')
        y = F.dropout(global_average(y), 0.4)
        return linear(y, class_dim, weight='out_weights', bias='out_offset')


def _inception(x: Any, widths: list[int], name: str) -> Any:
    one, three_reduce, three, five_reduce, five, projection = widths
    y3 = conv(x, three_reduce, 1, name=f'{name}_3x3_reduce', bias=True, act='relu')
    y5 = conv(x, five_reduce, 1, name=f'{name}_5x5_reduce', bias=True, act='relu')
    branches = [
        conv(x, one, 1, name=f'{name}_1x1', bias=True),
        conv(y3, three, 3, name=f'{name}_3x3', bias=True),
        conv(y5, five, 5, name=f'{name}_5x5', bias=True),
        conv(max_pool(x, 3, 1, padding=1), projection, 1, name=f'{name}_proj', bias=True),
    ]
    return F.relu(paddle.concat(branches, axis=1))
