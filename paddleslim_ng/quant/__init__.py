"""Quantization: what becomes integers, on which scale, proved on the program and on the runtime."""

from __future__ import annotations

from paddleslim_ng.quant.calibration import calibrate
from paddleslim_ng.quant.data_sources import read_feeds
from paddleslim_ng.quant.observers import OBSERVERS, threshold
from paddleslim_ng.quant.statistics import CalibrationStatistics, TensorStatistics
from paddleslim_ng.quant.targets import TargetOperator, Targets, find_targets

__all__ = [
    'OBSERVERS',
    'CalibrationStatistics',
    'TargetOperator',
    'Targets',
    'TensorStatistics',
    'calibrate',
    'find_targets',
    'read_feeds',
    'threshold',
]
