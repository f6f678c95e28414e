"""From a program to a file that the phone runs: Paddle Lite, with what came out proved and measured."""

from __future__ import annotations

from paddleslim_ng.deploy.engine_row import EngineRow
from paddleslim_ng.deploy.engines import ENGINES
from paddleslim_ng.deploy.interpreters import LiteInterpreter, find_interpreter
from paddleslim_ng.deploy.legalize import PASSES, LegalizePass, legalize
from paddleslim_ng.deploy.lite import to_lite
from paddleslim_ng.deploy.lite_options import PRECISIONS, TARGETS
from paddleslim_ng.deploy.lite_process import LiteProcess, RunTimes
from paddleslim_ng.deploy.lite_result import LiteModel
from paddleslim_ng.deploy.lite_support import lacking_operators, supported_operators
from paddleslim_ng.deploy.measure import Measurement, measure
from paddleslim_ng.deploy.nb import Kernel, NbFile, read_nb
from paddleslim_ng.deploy.onnx import OnnxModel, to_onnx
from paddleslim_ng.deploy.onnx_parity import Parity
from paddleslim_ng.deploy.verification import Figures, Verification
from paddleslim_ng.deploy.verify import verify
from paddleslim_ng.runtime.inference_model import load_inference_model, save_inference_model

__all__ = [
    'ENGINES',
    'PASSES',
    'PRECISIONS',
    'TARGETS',
    'EngineRow',
    'Figures',
    'Kernel',
    'LegalizePass',
    'LiteInterpreter',
    'LiteModel',
    'LiteProcess',
    'Measurement',
    'NbFile',
    'OnnxModel',
    'Parity',
    'RunTimes',
    'Verification',
    'find_interpreter',
    'lacking_operators',
    'legalize',
    'load_inference_model',
    'measure',
    'read_nb',
    'save_inference_model',
    'supported_operators',
    'to_lite',
    'to_onnx',
    'verify',
]
