"""Building blocks of the networks: functional layers with explicitly named parameters, the same on both IRs.

Every function takes and returns symbolic tensors (a ``Variable`` on the legacy IR, a ``Value`` on PIR) of the current
default program. Only calls that Paddle offers on PIR, on 3.x legacy programs and on 2.6 are used, so one definition of
a network serves all three. Weights of the layer ``name`` are called ``<name>_weights``, biases ``<name>_offset``, and
the four batch-norm parameters ``<bn>_scale``, ``<bn>_offset``, ``<bn>_mean`` and ``<bn>_variance``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import paddle
import paddle.nn.functional as F  # noqa: N812
from paddle.nn import initializer

from paddleslim_ng.core import is_pir_program, set_name
from paddleslim_ng.errors import ConfigError

__all__ = [
    'ConvNames',
    'activate',
    'average_pool',
    'batch_norm',
    'channel_shuffle',
    'conv',
    'conv_bn',
    'gelu',
    'global_average',
    'layer_norm',
    'linear',
    'make_divisible',
    'max_pool',
    'named',
    'parameter',
    'scaled',
    'squeeze_excite',
]

Tensor = Any


def gelu(x: Tensor) -> Tensor:
    """Apply the exact Gaussian error linear unit (Hendrycks and Gimpel, 2016).

    Paddle 3.2 and later refuse ``F.gelu`` on legacy programs, so there the operator is appended directly.
    """
    if is_pir_program(paddle.static.default_main_program()):
        return F.gelu(x)
    block = x.block.program.current_block()
    name = paddle.utils.unique_name.generate('gelu')
    out = block.create_var(name=f'{name}.tmp_0', dtype=x.dtype, shape=x.shape)
    block.append_op(type='gelu', inputs={'X': x}, outputs={'Out': out}, attrs={'approximate': False})
    return out


ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    'relu': F.relu,
    'relu6': F.relu6,
    'hard_swish': F.hardswish,
    'swish': F.swish,
    'gelu': gelu,
}


@dataclass(frozen=True)
class ConvNames:
    """Names of a convolution followed by batch norm, where they do not all derive from one layer name.

    Attributes:
        bn: prefix of the batch-norm parameters.
        conv_out: name of the convolution's output, or None to leave it to Paddle.
        bn_out: prefix of the outputs of batch norm (``.tmp_2``) and of its activation (``.tmp_3``), or None.
    """

    bn: str
    conv_out: str | None = None
    bn_out: str | None = None


def activate(x: Tensor, act: str | None) -> Tensor:
    """Apply the activation called ``act``; None means identity.

    Raises:
        ConfigError: the activation is unknown.
    """
    if act is None:
        return x
    if act not in ACTIVATIONS:
        raise ConfigError(f'unknown activation {act!r}; known: {", ".join(sorted(ACTIVATIONS))}')
    return ACTIVATIONS[act](x)


def named(x: Tensor, name: str | None) -> Tensor:
    """Give the intermediate tensor ``x`` a stable name, if one is wanted, and return it."""
    return x if name is None else set_name(x, name)


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round ``value`` to a multiple of ``divisor`` without losing more than a tenth of it (MobileNetV3's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def scaled(channels: int, scale: float) -> int:
    """Return ``channels * scale`` rounded down, at least one."""
    return max(1, int(channels * scale))


def parameter(name: str, shape: list[int], init: Any, *, trainable: bool = True) -> Tensor:
    """Create a float32 parameter called ``name`` in the current default programs."""
    attr = paddle.ParamAttr(name=name, initializer=init, trainable=trainable)
    return paddle.create_parameter(shape=shape, dtype='float32', attr=attr)


def conv(
    x: Tensor,
    filters: int,
    kernel: int,
    *,
    name: str,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = False,
    act: str | None = None,
) -> Tensor:
    """Convolve NCHW ``x``; ``padding`` defaults to half the kernel ("same" at stride 1)."""
    weight = parameter(
        f'{name}_weights', [filters, int(x.shape[1]) // groups, kernel, kernel], initializer.KaimingNormal()
    )
    offset = parameter(f'{name}_offset', [filters], initializer.Constant(0.0)) if bias else None
    pad = (kernel - 1) // 2 if padding is None else padding
    return activate(F.conv2d(x, weight, bias=offset, stride=stride, padding=pad, groups=groups), act)


def batch_norm(x: Tensor, *, name: str, act: str | None = None, out: str | None = None) -> Tensor:
    """Normalise over the batch (Ioffe and Szegedy, 2015), then activate; ``name`` prefixes the parameters.

    With ``out`` the normalised tensor is called ``<out>.tmp_2`` and the activated one ``<out>.tmp_3``.
    """
    channels = [int(x.shape[1])]
    zero, one = initializer.Constant(0.0), initializer.Constant(1.0)
    scale, offset = parameter(f'{name}_scale', channels, one), parameter(f'{name}_offset', channels, zero)
    mean = parameter(f'{name}_mean', channels, zero, trainable=False)
    variance = parameter(f'{name}_variance', channels, one, trainable=False)
    y = F.batch_norm(x, mean, variance, weight=scale, bias=offset, training=True, momentum=0.9, epsilon=1e-5)
    y = named(y, out and f'{out}.tmp_2')
    return activate(y, act) if act is None else named(activate(y, act), out and f'{out}.tmp_3')


def conv_bn(
    x: Tensor,
    filters: int,
    kernel: int,
    *,
    name: str,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    act: str | None = None,
    names: ConvNames | None = None,
) -> Tensor:
    """Convolution without bias, batch norm and activation; batch norm is ``<name>_bn`` unless ``names`` says more."""
    names = names or ConvNames(bn=f'{name}_bn')
    y = conv(x, filters, kernel, name=name, stride=stride, padding=padding, groups=groups)
    return batch_norm(named(y, names.conv_out), name=names.bn, act=act, out=names.bn_out)


def linear(x: Tensor, size: int, *, weight: str, bias: str, act: str | None = None) -> Tensor:
    """Multiply the last axis of ``x`` by a [width, size] matrix and add a bias; both are named in full."""
    width = int(x.shape[-1])
    init = initializer.Uniform(-1.0 / math.sqrt(width), 1.0 / math.sqrt(width))
    y = F.linear(x, parameter(weight, [width, size], init), parameter(bias, [size], initializer.Constant(0.0)))
    return activate(y, act)


def layer_norm(x: Tensor, *, name: str) -> Tensor:
    """Normalise the last axis (Ba et al., 2016) with ``<name>_scale`` and ``<name>_offset``."""
    width = int(x.shape[-1])
    scale = parameter(f'{name}_scale', [width], initializer.Constant(1.0))
    offset = parameter(f'{name}_offset', [width], initializer.Constant(0.0))
    return F.layer_norm(x, [width], weight=scale, bias=offset, epsilon=1e-6)


def max_pool(x: Tensor, kernel: int, stride: int, *, padding: int = 0, ceil_mode: bool = False) -> Tensor:
    """Maximum over ``kernel`` x ``kernel`` windows."""
    return F.max_pool2d(x, kernel, stride=stride, padding=padding, ceil_mode=ceil_mode)


def average_pool(x: Tensor, kernel: int, stride: int, *, padding: int = 0, ceil_mode: bool = False) -> Tensor:
    """Average over ``kernel`` x ``kernel`` windows."""
    return F.avg_pool2d(x, kernel, stride=stride, padding=padding, ceil_mode=ceil_mode)


def global_average(x: Tensor) -> Tensor:
    """Average an NCHW tensor over height and width and drop these axes: [N, C]."""
    return paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave ``groups`` blocks of channels of an NCHW tensor (ShuffleNet, Zhang et al., 2018)."""
    _, channels, height, width = (int(size) for size in x.shape)
    split = paddle.reshape(x, [0, groups, channels // groups, height, width])
    return paddle.reshape(paddle.transpose(split, [0, 2, 1, 3, 4]), [0, channels, height, width])


def squeeze_excite(x: Tensor, *, name: str, reduction: int = 4) -> Tensor:
    """Reweigh channels by a gate computed from their global averages (Hu et al., 2018), with a hard sigmoid."""
    channels = int(x.shape[1])
    gate = F.adaptive_avg_pool2d(x, 1)
    gate = conv(gate, max(1, channels // reduction), 1, name=f'{name}_1', bias=True, act='relu')
    gate = conv(gate, channels, 1, name=f'{name}_2', bias=True)
    return x * F.hardsigmoid(gate, slope=0.2, offset=0.5)
