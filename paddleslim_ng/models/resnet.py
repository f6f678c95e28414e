"""Residual networks (He et al., 2015) of 18, 34, 50 and 101 layers."""

from __future__ import annotations

from typing import Any, ClassVar

import paddle.nn.functional as F  # noqa: N812

from paddleslim_ng.models.layers import ConvNames, conv_bn, global_average, linear, max_pool, named, scaled
from paddleslim_ng.models.network import Network

__all__ = ['ResNet18', 'ResNet34', 'ResNet50', 'ResNet101']


class _ResNet(Network):
    """Layers: ``conv1``, ``res2a_branch2a``, ..., ``fc_0``; the batch norm of ``res2a_branch1`` is ``bn2a_branch1``.

    Intermediate tensors have the names that distillation scripts use: ``res2a_branch2a.conv2d.output.1.tmp_0``,
    ``bn2a_branch2a.output.1.tmp_2`` (batch norm) and ``.tmp_3`` (its relu), ``res2a.add.output.5.tmp_0`` (the sum)
    and ``.tmp_1`` (its relu).
    """

    depths: ClassVar[tuple[int, int, int, int]]
    bottleneck: ClassVar[bool]

    def _build(self, image: Any, class_dim: int) -> Any:
        y = _conv(image, scaled(64, self.scale), 7, 'conv1', stride=2, act='relu')
        y = max_pool(y, 3, 2, padding=1)
        block = _bottleneck_block if self.bottleneck else _basic_block
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                y = block(y, scaled(64 << stage, self.scale), stride, self._block_name(stage, index))
        return linear(global_average(y), class_dim, weight='fc_0.w_0', bias='fc_0.b_0')

    def _block_name(self, stage: int, index: int) -> str:
        """Letters number the blocks, except in the long third stage of the deep networks: res4a, res4b1, ..."""
        if self.depths[2] > 20 and stage == 2 and index > 0:
            return f'res{stage + 2}b{index}'
        return f'res{stage + 2}{chr(ord("a") + index)}'


def _conv(x: Any, filters: int, kernel: int, name: str, *, stride: int = 1, act: str | None = None) -> Any:
    bn = f'bn_{name}' if name == 'conv1' else f'bn{name[3:]}'
    names = ConvNames(bn=bn, conv_out=f'{name}.conv2d.output.1.tmp_0', bn_out=f'{bn}.output.1')
    return conv_bn(x, filters, kernel, name=name, stride=stride, act=act, names=names)


def _join(x: Any, y: Any, stride: int, name: str) -> Any:
    """Add the shortcut, a projection where shapes differ, and apply relu."""
    filters = int(y.shape[1])
    plain = stride == 1 and int(x.shape[1]) == filters
    short = x if plain else _conv(x, filters, 1, f'{name}_branch1', stride=stride)
    total = named(short + y, f'{name}.add.output.5.tmp_0')
    return named(F.relu(total), f'{name}.add.output.5.tmp_1')


def _basic_block(x: Any, filters: int, stride: int, name: str) -> Any:
    y = _conv(x, filters, 3, f'{name}_branch2a', stride=stride, act='relu')
    return _join(x, _conv(y, filters, 3, f'{name}_branch2b'), stride, name)


def _bottleneck_block(x: Any, filters: int, stride: int, name: str) -> Any:
    y = _conv(x, filters, 1, f'{name}_branch2a', act='relu')
    y = _conv(y, filters, 3, f'{name}_branch2b', stride=stride, act='relu')
    return _join(x, _conv(y, filters * 4, 1, f'{name}_branch2c'), stride, name)


class ResNet18(_ResNet):
    """ResNet-18, of basic blocks."""

    depths = (2, 2, 2, 2)
    bottleneck = False


class ResNet34(_ResNet):
    """ResNet-34, of basic blocks."""

    depths = (3, 4, 6, 3)
    bottleneck = False


class ResNet50(_ResNet):
    """ResNet-50, of bottleneck blocks with the stride in the 3x3 convolution."""

    depths = (3, 4, 6, 3)
    bottleneck = True


class ResNet101(_ResNet):
    """ResNet-101, of bottleneck blocks with the stride in the 3x3 convolution."""

    depths = (3, 4, 23, 3)
    bottleneck = True
