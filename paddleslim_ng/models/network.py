"""The base class of the classification networks."""

from __future__ import annotations

from typing import Any, ClassVar

import paddle
import paddle.nn.functional as F  # noqa: N812

from paddleslim_ng.errors import ConfigError

__all__ = ['Network']


class Network:
    """A convolutional or transformer classifier that builds itself into the current default program.

    Args:
        scale: width multiplier; 1.0 is the published network.

    Attributes:
        logits: the class scores before softmax of the last call of :meth:`net`, [N, class_dim]; None before.

    Raises:
        ConfigError: ``scale`` is not positive.
    """

    minimum_size: ClassVar[int] = 4

    def __init__(self, scale: float = 1.0) -> None:
        if not scale > 0:
            raise ConfigError(f'{type(self).__name__}: scale must be positive, not {scale!r}')
        self.scale = float(scale)
        self.logits: Any = None

    def net(self, input: Any, class_dim: int = 1000) -> Any:
        """Append the network to the default program.

        Args:
            input: images, a symbolic tensor of shape [N, C, H, W] with known C, H and W.
            class_dim: number of classes.

        Returns:
            Class probabilities, [N, class_dim].

        Raises:
            ConfigError: dynamic graph mode, an input without known size, or one too small for the network.

        Example:
            >>> image = paddle.static.data('image', [None, 3, 224, 224], 'float32')
            >>> probabilities = slim.models.MobileNet().net(image, class_dim=10)
        """
        self._check(input, class_dim)
        self.logits = self._build(input, class_dim)
        return F.softmax(self.logits)

    def _build(self, image: Any, class_dim: int) -> Any:
        """Return the logits, [N, class_dim]."""
        raise NotImplementedError

    def _check(self, image: Any, class_dim: int) -> None:
        network = type(self).__name__
        if paddle.in_dynamic_mode():
            raise ConfigError(f'{network}.net builds a static graph: call paddle.enable_static() first')
        shape = [int(size) for size in image.shape]
        if len(shape) != 4 or min(shape[1:]) < 1:
            raise ConfigError(f'{network}.net wants images of shape [N, C, H, W] with known C, H and W, not {shape}')
        if min(shape[2:]) < self.minimum_size:
            raise ConfigError(f'{network} needs images of at least {self.minimum_size} pixels a side, not {shape[2:]}')
        if int(class_dim) < 1:
            raise ConfigError(f'{network}.net: class_dim must be at least 1, not {class_dim!r}')
