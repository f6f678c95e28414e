"""The model with the fewest layers in float that reaches a target, and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.analysed_model import AnalysedModel
from paddleslim_ng.quant.export import ExportedModel, export_quantized
from paddleslim_ng.quant.float_layers import FloatLayers
from paddleslim_ng.quant.spec import QuantizationSpec

__all__ = ['TargetModel', 'save_target']


@dataclass(frozen=True)
class TargetModel:
    """What :meth:`Analysis.get_target_quant_model` found and saved.

    Attributes:
        float_layers: layers that stay in float, the most sensitive one first; none of them can be spared.
        metric: what ``eval_function`` returned for the model that was saved.
        target: what was asked for.
        spec: the quantization of all other layers.
        exported: the files.
        evaluations: the metric of every set of float layers that was tried, in order.
    """

    float_layers: tuple[str, ...]
    metric: float
    target: float
    spec: QuantizationSpec
    exported: ExportedModel
    evaluations: tuple[tuple[tuple[str, ...], float], ...]

    def __str__(self) -> str:
        """Report in words."""
        layers = ', '.join(self.float_layers) or 'none'
        return (
            f'metric {self.metric:.6g}, at least {self.target:.6g}, with {len(self.float_layers)} layers in float: '
            f'{layers}; {len(self.evaluations)} models evaluated\n{self.exported}'
        )


def save_target(
    analysed: AnalysedModel, found: FloatLayers, target_metric: float, folder: Path, format: str
) -> TargetModel:
    """Save a model whose layers are quantized, save those that were found to stay in float.

    Args:
        analysed: the model, its quantization and the data.
        found: the layers in float.
        target_metric: what was to be reached.
        folder: for the files; the one above it is there.
        format: of the files, one of ``FORMATS``.

    Raises:
        ConfigError: no layer is quantized.
        EquivalenceError: the files do not compute what was meant.
    """
    quantized = [name for name in analysed.layers() if name not in found.layers]
    _, spec = analysed.form(quantized)
    if spec is None:
        raise ConfigError(f'only the float model reaches {target_metric}: no layer can be quantized')
    source = analysed.source(quantized)
    exported = export_quantized(
        source.program,
        spec,
        folder / 'model',
        source.feeds,
        source.fetches,
        source.scope,
        format=format,
        feed=dict(analysed.feeds[0]),
    )
    spec.save(folder / 'model.quantization.json')
    return TargetModel(found.layers, found.metric, target_metric, spec, exported, found.evaluations)
