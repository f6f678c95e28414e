"""The configuration of quantization-aware training: PaddleSlim's keys, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.quant.aware_types import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS
from paddleslim_ng.quant.targets import FULL, TARGETS

__all__ = ['AwareConfig', 'read_config']

Bits = Annotated[int, Field(ge=2, le=16)]
# A width for all tensors or by name; the kind is told first, so that an error is about the one that was meant.
_KINDS = ('one width', 'widths by name')


def _kind_of_bits(given: Any) -> str:
    return _KINDS[isinstance(given, Mapping)]


BitsOrTable = Annotated[
    Union[Annotated[Bits, Tag(_KINDS[0])], Annotated[dict[str, Bits], Tag(_KINDS[1])]], Discriminator(_kind_of_bits)
]
Rate = Annotated[float, Field(ge=0, lt=1)]
Texts = Union[str, list[str]]
MaybeTexts = Optional[list[str]]
Thresholds = Optional[dict[str, Annotated[float, Field(ge=0)]]]
_TENSORRT = ('conv2d', 'depthwise_conv2d', 'elementwise_add', 'leaky_relu', 'mul', 'pool2d')


class AwareConfig(BaseModel):
    """What ``config`` of :func:`paddleslim_ng.quant.quant_aware` may hold."""

    model_config = ConfigDict(extra='forbid', strict=True, frozen=True, allow_inf_nan=False)

    weight_quantize_type: str = Field('channel_wise_abs_max', description='How the scales of weights come about.')
    activation_quantize_type: str = Field('moving_average_abs_max', description='How those of activations do.')
    weight_bits: BitsOrTable = Field(8, description='Width of the integers of weights: of all, or by name.')
    activation_bits: BitsOrTable = Field(8, description='Width of the integers of activations: of all, or by name.')
    not_quant_pattern: Texts = Field(['skip_quant'], description='Operators with such a name stay in float.')
    skip_tensor_list: list[str] = Field([], description='Operators that read one of these tensors stay in float.')
    quantize_op_types: MaybeTexts = Field(None, description='Types of operators; all that have weights where None.')
    is_full_quantize: bool = Field(False, description='Quantize operators without weights, too.')
    for_tensorrt: bool = Field(False, description='Quantize the types of operators that TensorRT has.')
    dtype: Literal['int8'] = Field('int8', description='Type of the integers of up to 8 bits.')
    window_size: Annotated[int, Field(ge=1)] = Field(10000, description="Batches that 'range_abs_max' looks back at.")
    moving_rate: Rate = Field(0.9, description="What 'moving_average_abs_max' keeps of the past at every step.")
    scale_trainable: bool = Field(False, description='Train the scales of the types above with the gradient of LSQ.')
    activation_thresholds: Thresholds = Field(
        None, description='By tensor, the largest magnitude that learned scales of activations start from.'
    )
    pact_decay: Annotated[float, Field(ge=0)] = Field(0.0001, description="Decay of the thresholds of 'pact'.")
    quant_delay: Annotated[int, Field(ge=0, le=2**24)] = Field(
        0, description='Number of training steps that are taken before anything is rounded; scales follow the data.'
    )
    onnx_format: bool = Field(
        True, description='Let convert write quantize_linear operators rather than fake_quantize ones (legacy).'
    )

    @property
    def types(self) -> list[str] | None:
        """Types of operators to quantize; None for the default."""
        return list(_TENSORRT) if self.for_tensorrt else self.quantize_op_types

    @property
    def full(self) -> bool:
        """Whether operators without weights are quantized, because they are asked for in one way or another."""
        return self.is_full_quantize or any(type in FULL and type not in TARGETS for type in self.types or ())


def read_config(config: Any) -> AwareConfig:
    """Return a configuration that was given as a dictionary, as the model, or as None for the defaults.

    Raises:
        ConfigError: an unknown key or type, or a value of no use; the message names the nearest ones.
    """
    if isinstance(config, AwareConfig):
        return config
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f'config must be a dictionary, not {type(config).__name__}')
    given = dict(config or {})
    for key in given:
        if key not in AwareConfig.model_fields:
            near = nearest_names(str(key), AwareConfig.model_fields)
            raise ConfigError(f'unknown key {key!r} of config; known: {", ".join(AwareConfig.model_fields)}{near}')
    try:
        found = AwareConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        key = '.'.join(str(part) for part in first['loc'] if part not in _KINDS)
        raise ConfigError(f'config[{key!r}]={first["input"]!r}: {first["msg"].lower()}') from error
    _check_type('weight_quantize_type', found.weight_quantize_type, WEIGHT_QUANTIZERS)
    _check_type('activation_quantize_type', found.activation_quantize_type, ACTIVATION_QUANTIZERS)
    return found


def _check_type(key: str, value: str, known: Mapping[str, Any]) -> None:
    if value not in known:
        raise ConfigError(f'unknown {key} {value!r}; known: {", ".join(known)}{nearest_names(value, known)}')
