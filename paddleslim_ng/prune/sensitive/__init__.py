"""Sensitivity analysis: how much the metric suffers when channels of single parameters leave."""

from __future__ import annotations

from paddleslim_ng.prune.sensitive.ratios_by_loss import get_ratios_by_loss
from paddleslim_ng.prune.sensitive.sensitivity import sensitivity
from paddleslim_ng.prune.sensitive.sensitivity_file import load_sensitivities, measured_otherwise, merge_sensitive

__all__ = ['get_ratios_by_loss', 'load_sensitivities', 'measured_otherwise', 'merge_sensitive', 'sensitivity']
