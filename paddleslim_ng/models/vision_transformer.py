"""A small vision transformer (Dosovitskiy et al., 2021), averaging the tokens instead of a class token."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F  # noqa: N812
from paddle.nn import initializer

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.models.layers import conv, layer_norm, linear, parameter
from paddleslim_ng.models.network import Network

__all__ = ['VisionTransformer']


class VisionTransformer(Network):
    """ViT with pre-normalised blocks; the defaults are the "small" model with 16 x 16 patches (22 M parameters).

    Layers: ``patch_embed``, ``pos_embed``, ``block1_norm1``, ``block1_query``, ``_key``, ``_value``, ``_proj``,
    ``block1_norm2``, ``block1_fc1``, ``block1_fc2``, ..., ``norm``, ``head``.

    Args:
        scale: multiplies the number of heads; the width is heads x ``head_dim``.
        depth: number of blocks.
        heads: attention heads at scale 1.
        head_dim: channels of a head.
        mlp_ratio: hidden width of a block's perceptron over the model's width.
        patch_size: side of a patch in pixels; None takes 16, or 4 for images under 64 pixels.

    Raises:
        ConfigError: a size is not positive or, from :meth:`net`, patches do not tile the image.
    """

    def __init__(
        self,
        scale: float = 1.0,
        depth: int = 12,
        heads: int = 6,
        head_dim: int = 64,
        mlp_ratio: float = 4.0,
        patch_size: int | None = None,
    ) -> None:
        super().__init__(scale)
        if min(depth, heads, head_dim, mlp_ratio, 1 if patch_size is None else patch_size) <= 0:
            raise ConfigError('VisionTransformer: depth, heads, head_dim, mlp_ratio and patch_size must be positive')
        self.depth, self.head_dim, self.mlp_ratio, self.patch_size = depth, head_dim, mlp_ratio, patch_size
        self.heads = max(1, round(heads * self.scale))

    def _build(self, image: Any, class_dim: int) -> Any:
        tokens = self._embed(image)
        for index in range(1, self.depth + 1):
            name = f'block{index}'
            tokens = tokens + self._attention(layer_norm(tokens, name=f'{name}_norm1'), name)
            tokens = tokens + self._perceptron(layer_norm(tokens, name=f'{name}_norm2'), name)
        pooled = paddle.mean(layer_norm(tokens, name='norm'), axis=1)
        return _linear(pooled, class_dim, 'head')

    def _check(self, image: Any, class_dim: int) -> None:
        super()._check(image, class_dim)
        patch, size = self._patch(image), [int(side) for side in image.shape[2:]]
        if any(side % patch for side in size):
            raise ConfigError(f'VisionTransformer: patches of {patch} pixels do not tile an image of {size}')

    def _patch(self, image: Any) -> int:
        return self.patch_size or (16 if min(int(side) for side in image.shape[2:]) >= 64 else 4)

    def _embed(self, image: Any) -> Any:
        """[N, C, H, W] -> tokens [N, patches, width], with learned positions."""
        patch, width = self._patch(image), self.heads * self.head_dim
        y = conv(image, width, patch, name='patch_embed', stride=patch, padding=0, bias=True)
        tokens = paddle.transpose(paddle.flatten(y, 2), [0, 2, 1])
        return tokens + parameter('pos_embed', [1, int(tokens.shape[1]), width], initializer.TruncatedNormal(std=0.02))

    def _attention(self, tokens: Any, name: str) -> Any:
        """Scaled dot-product attention of all tokens to all tokens, in each head."""
        count, width = int(tokens.shape[1]), self.heads * self.head_dim
        heads = [0, count, self.heads, self.head_dim]
        query = paddle.reshape(_linear(tokens, width, f'{name}_query'), heads)
        key = paddle.reshape(_linear(tokens, width, f'{name}_key'), heads)
        value = paddle.reshape(_linear(tokens, width, f'{name}_value'), heads)
        scores = paddle.transpose(query * self.head_dim**-0.5, [0, 2, 1, 3]) @ paddle.transpose(key, [0, 2, 3, 1])
        mixed = F.softmax(scores, axis=-1) @ paddle.transpose(value, [0, 2, 1, 3])
        merged = paddle.reshape(paddle.transpose(mixed, [0, 2, 1, 3]), [0, count, width])
        return _linear(merged, width, f'{name}_proj')

    def _perceptron(self, tokens: Any, name: str) -> Any:
        width = int(tokens.shape[2])
        return _linear(_linear(tokens, int(width * self.mlp_ratio), f'{name}_fc1', 'gelu'), width, f'{name}_fc2')


def _linear(x: Any, size: int, name: str, act: str | None = None) -> Any:
    return linear(x, size, weight=f'{name}_weights', bias=f'{name}_offset', act=act)
