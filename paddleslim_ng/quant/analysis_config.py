"""The configuration of an analysis, with the names that PaddleSlim's calibration gives its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.quant.building import WEIGHT_TYPES
from paddleslim_ng.quant.observers import check_observer
from paddleslim_ng.quant.post_training import ACTIVATION_TYPES
from paddleslim_ng.quant.spec import largest_integer
from paddleslim_ng.quant.static_arguments import check_named

__all__ = ['DEFAULTS', 'checked_config']

#: Keys and their defaults, which are those of PaddleSlim's analysis; ``batch_nums`` are read at most.
DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        'algo': 'avg',
        'hist_percent': 0.9999,
        'weight_bits': 8,
        'activation_bits': 8,
        'weight_quantize_type': 'channel_wise_abs_max',
        'activation_quantize_type': 'range_abs_max',
        'quantizable_op_type': None,
        'is_full_quantize': False,
        'skip_tensor_list': (),
        'not_quant_pattern': ('skip_quant',),
        'onnx_format': False,
        'optimize_model': False,
        'batch_size': 1,
        'batch_nums': 10,
        'round_type': 'round',
        'bias_correction': False,
    }
)


def checked_config(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a configuration with all keys.

    Raises:
        ConfigError: an unknown key, or a value that is not available; reconstruction and bias correction are not, since
            they would have to be done for every form of the model.
    """
    given = dict(config or {})
    for key in given:
        if key not in DEFAULTS:
            known = ', '.join(DEFAULTS)
            raise ConfigError(f'unknown key {key!r} of quant_config; known: {known}{nearest_names(key, DEFAULTS)}')
    found = {**DEFAULTS, **given}
    check_observer(found['algo'])
    for key in ('weight_bits', 'activation_bits'):
        largest_integer(found[key])
    check_named('weight_quantize_type', found['weight_quantize_type'], tuple(WEIGHT_TYPES))
    check_named('activation_quantize_type', found['activation_quantize_type'], ACTIVATION_TYPES)
    check_named('round_type', found['round_type'], ('round',))
    check_named('bias_correction', found['bias_correction'], (False,))
    found['skip_tensor_list'] = list(found['skip_tensor_list'] or ())
    return found
