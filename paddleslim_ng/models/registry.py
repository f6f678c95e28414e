"""The table of networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.models.densenet import DenseNet121
from paddleslim_ng.models.googlenet import GoogLeNet
from paddleslim_ng.models.lenet import LeNet
from paddleslim_ng.models.mobilenet import MobileNet
from paddleslim_ng.models.mobilenet_v2 import MobileNetV2
from paddleslim_ng.models.mobilenet_v3 import MobileNetV3Large, MobileNetV3Small
from paddleslim_ng.models.network import Network
from paddleslim_ng.models.resnet import ResNet18, ResNet34, ResNet50, ResNet101
from paddleslim_ng.models.shufflenet_v2 import ShuffleNetV2
from paddleslim_ng.models.squeezenet import SqueezeNet
from paddleslim_ng.models.vgg import VGG16
from paddleslim_ng.models.vision_transformer import VisionTransformer

__all__ = ['MODELS', 'create']

_NETWORKS: Final[tuple[type[Network], ...]] = (
    LeNet,
    MobileNet,
    MobileNetV2,
    MobileNetV3Small,
    MobileNetV3Large,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    VGG16,
    ShuffleNetV2,
    DenseNet121,
    GoogLeNet,
    SqueezeNet,
    VisionTransformer,
)
MODELS: Final[Mapping[str, type[Network]]] = MappingProxyType({network.__name__: network for network in _NETWORKS})


def create(name: str, **kwargs: Any) -> Network:
    """Return a network of the class called ``name``, made with ``kwargs``.

    Raises:
        ConfigError: the name is not in :data:`MODELS`, or the class does not take such an argument.

    Example:
        >>> slim.models.create('MobileNetV2', scale=0.5)
    """
    if name not in MODELS:
        raise ConfigError(f'unknown model {name!r}; known: {", ".join(MODELS)}{nearest_names(name, MODELS)}')
    known = inspect.signature(MODELS[name]).parameters
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        raise ConfigError(f'{name} takes no argument {unknown[0]!r}; known: {", ".join(known)}')
    return MODELS[name](**kwargs)
