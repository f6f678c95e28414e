"""The pruners, distillers and quantizers that a configuration names; strategies use them."""

from __future__ import annotations

from paddleslim_ng.compress.plugins.distiller import Distiller
from paddleslim_ng.compress.plugins.fsp_distiller import FSPDistiller
from paddleslim_ng.compress.plugins.map_distillers import L2Distiller, LossDistiller, SoftLabelDistiller
from paddleslim_ng.compress.plugins.quantizers import LSQQuantizer, MovingAverageQuantizer, PACTQuantizer, Quantizer
from paddleslim_ng.compress.plugins.structure_pruner import StructurePruner

__all__ = [
    'Distiller',
    'FSPDistiller',
    'L2Distiller',
    'LSQQuantizer',
    'LossDistiller',
    'MovingAverageQuantizer',
    'PACTQuantizer',
    'Quantizer',
    'SoftLabelDistiller',
    'StructurePruner',
]
