"""Classification networks for static graphs, under the parameter names that Paddle's users know."""

from __future__ import annotations

from paddleslim_ng.models.classification import Classifier, build_classifier, image_classification
from paddleslim_ng.models.densenet import DenseNet121
from paddleslim_ng.models.googlenet import GoogLeNet
from paddleslim_ng.models.lenet import LeNet
from paddleslim_ng.models.mobilenet import MobileNet
from paddleslim_ng.models.mobilenet_v2 import MobileNetV2
from paddleslim_ng.models.mobilenet_v3 import MobileNetV3Large, MobileNetV3Small
from paddleslim_ng.models.network import Network
from paddleslim_ng.models.registry import MODELS, create
from paddleslim_ng.models.resnet import ResNet18, ResNet34, ResNet50, ResNet101
from paddleslim_ng.models.shufflenet_v2 import ShuffleNetV2
from paddleslim_ng.models.squeezenet import SqueezeNet
from paddleslim_ng.models.vgg import VGG16
from paddleslim_ng.models.vision_transformer import VisionTransformer

__all__ = [
    'MODELS',
    'VGG16',
    'Classifier',
    'DenseNet121',
    'GoogLeNet',
    'LeNet',
    'MobileNet',
    'MobileNetV2',
    'MobileNetV3Large',
    'MobileNetV3Small',
    'Network',
    'ResNet18',
    'ResNet34',
    'ResNet50',
    'ResNet101',
    'ShuffleNetV2',
    'SqueezeNet',
    'VisionTransformer',
    'build_classifier',
    'create',
    'image_classification',
]
