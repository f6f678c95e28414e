"""What a network costs and how it reacts to pruning: multiply-accumulates, sizes, curves, and the one-file report."""

from __future__ import annotations

from paddleslim_ng.analysis.flops import LayerCost, flops, layer_costs
from paddleslim_ng.analysis.inspection import Inspection, Weight, inspect_model
from paddleslim_ng.analysis.model_size import model_size, numel
from paddleslim_ng.analysis.plot import plot_sensitivities
from paddleslim_ng.analysis.report import ModelFigures, Report, ReportTable, write_report

__all__ = [
    'Inspection',
    'LayerCost',
    'ModelFigures',
    'Report',
    'ReportTable',
    'Weight',
    'flops',
    'inspect_model',
    'layer_costs',
    'model_size',
    'numel',
    'plot_sensitivities',
    'write_report',
]
