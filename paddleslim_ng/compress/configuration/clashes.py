"""What two instances say differently, so that one of them would be passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from paddleslim_ng.compress.configuration.configuration import Instance
from paddleslim_ng.compress.configuration.document import Document
from paddleslim_ng.compress.configuration.problems import Problems
from paddleslim_ng.compress.configuration.quantization_options import QuantizationOptions
from paddleslim_ng.compress.configuration.registry import Registry

__all__ = ['check_quantizers']

# How scales come about.
_SCALES: Final = ('weight_quantize_type', 'activation_quantize_type', 'moving_rate', 'window_size', 'use_pact')


def check_quantizers(
    instances: Mapping[str, Instance], registry: Registry, document: Document, problems: Problems
) -> None:
    """Note where a strategy says what its quantizer says; what a class of the user's says is not known.

    Args:
        instances: by name.
        registry: the classes.
        document: knows where they stand.
        problems: gets what is wrong.
    """
    known = registry.classes('quantizers')
    for one in instances.values():
        if not isinstance(one.options, QuantizationOptions) or one.options.quantizer not in instances:
            continue
        quantizer = instances[one.options.quantizer]
        if quantizer.class_name not in known:
            continue
        for key in _SCALES:
            if key in one.options.model_fields_set:
                path = (one.section, one.name, key)
                problems.add(
                    document.place_of(path), path, f'is what the quantizer {quantizer.name!r} is for: leave it out'
                )
