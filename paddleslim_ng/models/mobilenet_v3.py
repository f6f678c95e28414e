"""MobileNetV3 (Howard et al., 2019): inverted residuals with squeeze-and-excitation and hard swish."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import paddle
import paddle.nn.functional as F  # noqa: N812

from paddleslim_ng.models.layers import conv, conv_bn, linear, make_divisible, squeeze_excite
from paddleslim_ng.models.network import Network

__all__ = ['MobileNetV3Large', 'MobileNetV3Small']

# (kernel, expanded channels, output channels, squeeze-excitation, activation, stride); blocks are conv2, conv3, ...
_Row = tuple[int, int, int, bool, str, int]
_LARGE: Final[tuple[_Row, ...]] = (
    (3, 16, 16, False, 'relu', 1),
    (3, 64, 24, False, 'relu', 2),
    (3, 72, 24, False, 'relu', 1),
    (5, 72, 40, True, 'relu', 2),
    (5, 120, 40, True, 'relu', 1),
    (5, 120, 40, True, 'relu', 1),
    (3, 240, 80, False, 'hard_swish', 2),
    (3, 200, 80, False, 'hard_swish', 1),
    (3, 184, 80, False, 'hard_swish', 1),
    (3, 184, 80, False, 'hard_swish', 1),
    (3, 480, 112, True, 'hard_swish', 1),
    (3, 672, 112, True, 'hard_swish', 1),
    (5, 672, 160, True, 'hard_swish', 2),
    (5, 960, 160, True, 'hard_swish', 1),
    (5, 960, 160, True, 'hard_swish', 1),
)
_SMALL: Final[tuple[_Row, ...]] = (
    (3, 16, 16, True, 'relu', 2),
    (3, 72, 24, False, 'relu', 2),
    (3, 88, 24, False, 'relu', 1),
    (5, 96, 40, True, 'hard_swish', 2),
    (5, 240, 40, True, 'hard_swish', 1),
    (5, 240, 40, True, 'hard_swish', 1),
    (5, 120, 48, True, 'hard_swish', 1),
    (5, 144, 48, True, 'hard_swish', 1),
    (5, 288, 96, True, 'hard_swish', 2),
    (5, 576, 96, True, 'hard_swish', 1),
    (5, 576, 96, True, 'hard_swish', 1),
)


class _MobileNetV3(Network):
    """Both sizes.

    Layers: ``conv1``, ``conv2_expand``, ``_depthwise``, ``_se_1``, ``_se_2``, ``_linear``, ..., ``conv_last``,
    ``last_1x1_conv``, ``fc``.

    Args:
        scale: width multiplier; channels are rounded to multiples of 8.
        class_expand: width of the layer before the classifier. Paddle's published weights have 1280; the last
            version of the paper gives the small network 1024.
    """

    rows: ClassVar[tuple[_Row, ...]]

    def __init__(self, scale: float = 1.0, class_expand: int = 1280) -> None:
        super().__init__(scale)
        self.class_expand = class_expand

    def _build(self, image: Any, class_dim: int) -> Any:
        y = conv_bn(image, make_divisible(16 * self.scale), 3, name='conv1', stride=2, act='hard_swish')
        for index, row in enumerate(self.rows, start=2):
            y = _block(y, row, self.scale, f'conv{index}')
        width = make_divisible(self.rows[-1][1] * self.scale)
        y = F.adaptive_avg_pool2d(conv_bn(y, width, 1, name='conv_last', act='hard_swish'), 1)
        y = conv(y, self.class_expand, 1, name='last_1x1_conv', act='hard_swish')
        y = paddle.flatten(F.dropout(y, 0.2), 1)
        return linear(y, class_dim, weight='fc_weights', bias='fc_offset')


def _block(x: Any, row: _Row, scale: float, name: str) -> Any:
    kernel, expanded, filters, excite, act, stride = row
    width, out = make_divisible(expanded * scale), make_divisible(filters * scale)
    y = conv_bn(x, width, 1, name=f'{name}_expand', act=act)
    y = conv_bn(y, width, kernel, name=f'{name}_depthwise', stride=stride, groups=width, act=act)
    if excite:
        y = squeeze_excite(y, name=f'{name}_se')
    y = conv_bn(y, out, 1, name=f'{name}_linear')
    return x + y if stride == 1 and int(x.shape[1]) == out else y


class MobileNetV3Large(_MobileNetV3):
    """MobileNetV3-Large."""

    rows = _LARGE


class MobileNetV3Small(_MobileNetV3):
    """MobileNetV3-Small."""

    rows = _SMALL
