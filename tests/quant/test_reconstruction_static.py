"""Adaptive rounding and bias correction from saved models to files of integers, on digits at four bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import load_array
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant import QuantizedModel, quant_post_static, quant_recon_static, quantize
from paddleslim_ng.runtime import load_inference_model
from tests.quant.test_post_training import Trained, accuracy, trained  # noqa: F401  (a fixture)

FOUR: dict[str, Any] = {'weight_bits': 4, 'activation_bits': 4, 'algo': 'mse', 'optimize_model': True, 'batch_size': 16}


def reached(folder: Path, data: Trained) -> float:
    return accuracy(load_inference_model(folder / 'model', paddle.static.Scope()), data.images, data.labels)


def output_error(done: QuantizedModel, data: Trained) -> float:
    """Return the relative error of the outputs of the simulation on the calibration data."""
    simulated = slim.quant.simulate(done.model.program, done.spec, done.model.scope)
    float_model = load_inference_model(data.prefix, paddle.static.Scope())
    pairs = (
        (float_model.program, float_model.fetches, float_model.scope),
        (simulated.program, done.model.fetches, simulated.scope),
    )
    expected, found = (
        slim.Executor().run(program, {'image': data.calibration}, fetches, scope=scope)[0]
        for program, fetches, scope in pairs
    )
    return float(np.square(expected - found).mean() / np.square(expected).mean())


@pytest.mark.parametrize('level', ['layer-wise', 'region-wise'])
def test_four_bits_on_digits(trained: Trained, level: str, tmp_path: Path) -> None:  # noqa: F811
    data = {'data_loader': trained.calibration, **FOUR}
    plain = quant_post_static(None, trained.prefix, tmp_path / 'plain', **data)
    better = quant_recon_static(
        None, trained.prefix, tmp_path / 'better', recon_level=level, simulate_activation_quant=True, epochs=15, **data
    )
    assert better.reconstructed is not None and better.exported is not None and better.corrected is None
    assert len(better.reconstructed.blocks) == (5 if level == 'layer-wise' else 2)
    assert output_error(better, trained) < output_error(plain, trained)
    assert reached(tmp_path / 'better', trained) > reached(tmp_path / 'plain', trained) - 0.02
    assert max(better.exported.distinct.values()) <= 15
    for tensor in better.spec.of_kind('weight'):
        integers = quantize(load_array(better.model.scope, tensor.name), tensor)
        assert better.exported.distinct[tensor.name] == len(np.unique(integers))
    assert 'blocks reconstructed' in str(better)


def test_bias_correction_does_not_hurt(trained: Trained, tmp_path: Path) -> None:  # noqa: F811
    data = {'data_loader': trained.calibration, **FOUR}
    plain = quant_post_static(None, trained.prefix, tmp_path / 'plain', **data)
    corrected = quant_post_static(None, trained.prefix, tmp_path / 'corrected', bias_correction=True, **data)
    assert corrected.corrected is not None
    assert len(corrected.corrected.corrections) == 5
    assert output_error(plain, trained) == pytest.approx(corrected.corrected.error_before, rel=1e-2)
    assert output_error(corrected, trained) <= output_error(plain, trained) * 1.001
    assert reached(tmp_path / 'corrected', trained) > reached(tmp_path / 'plain', trained) - 0.01
    assert 'biases corrected' in str(corrected)


def test_both_and_the_names_of_paddleslim(trained: Trained, tmp_path: Path) -> None:  # noqa: F811
    both = quant_post_static(
        None,
        trained.prefix,
        tmp_path / 'both',
        batch_generator=lambda: ([trained.calibration[i : i + 32]] for i in (0, 32)),
        round_type='adaround',
        bias_correction=True,
        onnx_format=False,
        weight_bits=4,
        optimize_model=True,
    )
    assert both.reconstructed is not None and both.corrected is not None
    taken = both.corrected.error_after < both.corrected.error_before
    assert (both.model is both.corrected.model) == taken
    assert reached(tmp_path / 'both', trained) > trained.accuracy - 0.03


def test_regions_that_are_given(trained: Trained, tmp_path: Path) -> None:  # noqa: F811
    model = load_inference_model(trained.prefix, paddle.static.Scope())
    relus = [op.all_outputs()[0].name() for op in slim.GraphWrapper(model.program).ops() if op.type() == 'relu']
    data = {'data_loader': trained.calibration, **FOUR, 'optimize_model': False}
    options: dict[str, Any] = {'epochs': 3, 'drop_prob': 0.0, 'weight_quantize_type': 'abs_max', **data}
    done = quant_recon_static(
        None, trained.prefix, tmp_path / 'a', regions=[['image', relus[0]], [relus[0], relus[2]]], **options
    )
    assert done.reconstructed is not None
    assert [len(result.block.weights) for result in done.reconstructed.blocks] == [1, 2]
    assert len(done.reconstructed.skipped) == 2
    with pytest.raises(GraphError, match="'nowhere'"):
        quant_recon_static(None, trained.prefix, tmp_path / 'b', regions=[['image', 'nowhere']], **options)
    assert not list(tmp_path.glob('b/*'))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'recon_level': 'layer_wise'}, "recon_level='layer_wise' is not available.*did you mean"),
        ({'epochs': 0}, 'epochs must be a positive whole number'),
        ({'lr': 0}, 'lr must be positive'),
        ({'drop_prob': 1.0}, 'drop must be'),
        ({'region_weights_names': [['w']]}, 'go with regions'),
        ({'limit': 0}, 'limit must be a positive'),
        ({'algo': 'hits'}, "did you mean 'hist'"),
    ],
)
def test_refusals(trained: Trained, options: dict[str, Any], message: str, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(ConfigError, match=message):
        quant_recon_static(
            None, trained.prefix, tmp_path / 'q', data_loader=trained.calibration, batch_size=32, **options
        )
    assert not list(tmp_path.glob('q/*'))
