"""Running what was built: inference models on disk, synthesized feeds, measured latency, atomic files."""

from __future__ import annotations

from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.runtime.atomic import atomic_write
from paddleslim_ng.runtime.feeds import data_inputs, synthesize_feeds
from paddleslim_ng.runtime.inference_model import (
    InferenceModel,
    SavedModel,
    convert_model,
    load_inference_model,
    save_inference_model,
)
from paddleslim_ng.runtime.latency import Latency, measure_latency
from paddleslim_ng.runtime.shape_probe import probe_shapes

__all__ = [
    'InferenceModel',
    'Latency',
    'SavedModel',
    'atomic_write',
    'convert_model',
    'data_inputs',
    'load_inference_model',
    'matching_ir',
    'measure_latency',
    'probe_shapes',
    'save_inference_model',
    'synthesize_feeds',
]
