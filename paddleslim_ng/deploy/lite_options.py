"""What Paddle Lite's converter can be asked for: targets and precisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from paddleslim_ng.errors import ConfigError, nearest_names

__all__ = ['PRECISIONS', 'TARGETS', 'Precision', 'Target', 'check_options']


@dataclass(frozen=True)
class Target:
    """A device to convert for.

    Attributes:
        places: the converter's words for it, the most wanted first; what the device lacks falls to the next.
        device: where the kernels of the file must run, in the words of :class:`paddleslim_ng.deploy.nb.Kernel`.
        sparse: it has kernels that skip zero weights.
    """

    places: str
    device: str
    sparse: bool = False


TARGETS: Final[Mapping[str, Target]] = MappingProxyType(
    {
        'arm': Target('arm', 'arm', sparse=True),
        'x86': Target('x86', 'x86'),
        'opencl': Target('opencl,arm', 'opencl'),
        'x86_opencl': Target('x86_opencl,x86', 'opencl'),
        'metal': Target('metal,arm', 'metal'),
        'xpu': Target('xpu,x86', 'xpu'),
        **{
            name: Target(f'{name},arm', 'nnadapter')
            for name in (
                'android_nnapi',
                'cambricon_mlu',
                'eeasytech_npu',
                'huawei_ascend_npu',
                'huawei_kirin_npu',
                'imagination_nna',
                'kunlunxin_xtcl',
                'mediatek_apu',
                'qualcomm_qnn',
                'verisilicon_timvx',
            )
        },
    }
)


@dataclass(frozen=True)
class Precision:
    """A precision to convert to.

    Attributes:
        kernels: precision that some kernels of the file must have; ``''`` asks for none.
        fp16: the converter's switch for 16-bit floating point.
        storage: the converter's name for weights that are only stored in integers, or None.
        quantized: the model must be quantized already.
    """

    kernels: str = ''
    fp16: bool = False
    storage: str | None = None
    quantized: bool = False


PRECISIONS: Final[Mapping[str, Precision]] = MappingProxyType(
    {
        'fp32': Precision(),
        'fp16': Precision(kernels='fp16', fp16=True),
        'int8': Precision(kernels='int8', quantized=True),
        'int8_storage': Precision(storage='QUANT_INT8'),
        'int16_storage': Precision(storage='QUANT_INT16'),
    }
)


def check_options(target: str, precision: str, sparse: float | None) -> None:
    """Check a request before anything is done.

    Raises:
        ConfigError: an unknown target or precision, or a sparse threshold that is none or that the target ignores.
    """
    for what, name, known in (('target', target, TARGETS), ('precision', precision, PRECISIONS)):
        if name not in known:
            raise ConfigError(f'unknown {what} {name!r}; known: {", ".join(known)}{nearest_names(str(name), known)}')
    if sparse is None:
        return
    if isinstance(sparse, bool) or not 0 < sparse < 1:
        raise ConfigError(f'sparse is the share of zeros from which a convolution counts as sparse, not {sparse!r}')
    if not TARGETS[target].sparse:
        able = [name for name, row in TARGETS.items() if row.sparse]
        raise ConfigError(f'Paddle Lite has no sparse kernels for {target!r}, only for {able}; leave sparse out')
