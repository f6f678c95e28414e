"""Bias correction: layer by layer, the mean outputs become those of the float model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array
from paddleslim_ng.errors import DataError, GraphError
from paddleslim_ng.quant import CorrectedModel, QuantizationSpec, correct_biases, fold_batch_norm, simulate
from paddleslim_ng.quant.inference_part import inference_part
from paddleslim_ng.runtime import InferenceModel, load_inference_model, save_inference_model
from tests.quant import quantized_nets as nets

nn = paddle.nn
F = nn.functional


def case_of(
    net: nets.Net, bits: int = 4, folder: Path | None = None
) -> tuple[InferenceModel, QuantizationSpec, list[dict[str, Any]]]:
    """Return the folded network, written to a folder and read again if there is one, its quantization, and batches."""
    model = fold_batch_norm(*net.model).model
    if folder is not None:
        outputs = [GraphWrapper.name_of(item) for item in model.fetches]
        save_inference_model(model.program, folder / 'model', model.feeds, outputs, model.scope)
        read = load_inference_model(folder / 'model', paddle.static.Scope())
        model = inference_part(read.program, read.feeds, read.fetches, read.scope)
    random = np.random.default_rng(5)
    shape = net.feed['x'].shape[1:]
    feeds = [{'x': random.standard_normal((count, *shape)).astype('float32')} for count in (4, 4, 3)]
    names = slim.quant.find_targets(model.program).activations
    arrays = slim.Executor().run(model.program, feeds[0], names, scope=model.scope)
    limits = {name: float(np.abs(array).max()) for name, array in zip(names, arrays)}
    options = {'weight_bits': bits, 'activation_bits': bits}
    return model, slim.quant.spec_from_thresholds(model.program, limits, scope=model.scope, **options), feeds


def means(program: Any, scope: Any, feeds: list[dict[str, Any]], name: str) -> Any:
    """Return the mean of a tensor over all images and places, for each channel."""
    arrays = [slim.Executor().run(program, feed, [name], scope=scope)[0] for feed in feeds]
    whole = np.concatenate(arrays).astype('float64')
    return whole.mean(tuple(n for n in range(whole.ndim) if n != 1))


def biased_outputs(program: Any, output: str) -> str:
    """Return the name of the sum of a layer's output and its bias."""
    reader = GraphWrapper(program).var(output).outputs()[0]
    assert reader.type() == 'elementwise_add'
    return str(reader.all_outputs()[0].name())


BODIES: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], int]] = {
    'every kind': (nets.conv_body, (3, 8, 8), 0),
    'no bias': (
        lambda x: nn.Conv2D(6, 5, 3, bias_attr=False)(F.relu(nn.Conv2D(3, 6, 3, bias_attr=False)(x))),
        (3, 7, 7),
        2,
    ),
    'no bias, and the next layer reads it quantized': (
        lambda x: nn.Conv2D(6, 5, 3)(nn.Conv2D(3, 6, 3, bias_attr=False)(x)),
        (3, 7, 7),
        1,
    ),
    'transposed': (
        lambda x: nn.Conv2DTranspose(6, 4, 3, bias_attr=False)(F.relu(nn.Conv2DTranspose(3, 6, 3)(x))),
        (3, 4, 4),
        1,
    ),
    'linear': (lambda x: nn.Linear(8, 5, bias_attr=False)(F.relu(nn.Linear(12, 8)(x))), (12,), 1),
}


@pytest.mark.parametrize('case', BODIES)
def test_mean_outputs_are_those_of_the_float_model(case: str) -> None:
    body, shape, inserted = BODIES[case]
    net = nets.build(body, shape)
    model, spec, feeds = case_of(net)
    before = simulate(model.program, spec, model.scope)
    ops, state = (
        repr(GraphWrapper(model.program).ops()),
        nets.state_of(net._replace(program=model.program, scope=model.scope)),
    )
    found = correct_biases(model, spec, feeds)
    assert set(found.corrections) == set(spec.operators) and not found.skipped
    assert len(found.inserted) == inserted
    after = simulate(found.model.program, found.spec, found.model.scope)
    for output in spec.operators:
        plain, uncorrected = (means(item.program, item.scope, feeds, output) for item in (model, before))
        total = biased_outputs(found.model.program, output)
        corrected = means(after.program, after.scope, feeds, total)
        expected = plain + (bias_of(model, output) if output not in found.inserted else 0)
        scale = np.abs(plain).max()
        np.testing.assert_allclose(corrected, expected, rtol=0, atol=2e-5 * scale)
        assert np.abs(uncorrected - plain).max() > 1e-3 * scale, 'quantization changed nothing'
    assert repr(GraphWrapper(model.program).ops()) == ops
    for name, array in state.items():
        np.testing.assert_array_equal(load_array(model.scope, name), array)


def bias_of(model: InferenceModel, output: str) -> Any:
    """Return the bias of a layer by the operators behind it."""
    addition = GraphWrapper(model.program).var(output).outputs()[0]
    term = addition.inputs('Y')[0]
    source = term.inputs()[0].inputs('X')[0] if term.inputs() else term
    return load_array(model.scope, source.name()).reshape(-1)


def final_error(
    model: InferenceModel, spec: QuantizationSpec, found: CorrectedModel, feeds: Any
) -> tuple[float, float]:
    """Return the distance of the mean outputs from float, before and after."""
    one, two = simulate(model.program, spec, model.scope), simulate(found.model.program, found.spec, found.model.scope)
    last = [GraphWrapper.name_of(item.fetches[0]) for item in (model, found.model)]
    plain = means(model.program, model.scope, feeds, last[0])
    distances = [
        float(np.abs(means(item.program, item.scope, feeds, name) - plain).max())
        for item, name in zip((one, two), last)
    ]
    return distances[0], distances[1]


@pytest.mark.parametrize(
    ('case', 'loaded'), [('every kind', False), ('no bias', False), ('no bias', True), ('linear', False)]
)
def test_the_outputs_of_the_program(case: str, loaded: bool, tmp_path: Path) -> None:
    body, shape, _ = BODIES[case]
    model, spec, feeds = case_of(nets.build(body, shape), folder=tmp_path if loaded else None)
    before, after = final_error(model, spec, correct_biases(model, spec, feeds), feeds)
    assert after < before / 100


@pytest.mark.parametrize('format', ['quantize_linear', 'decomposed'])
def test_a_corrected_model_is_exported(format: str, tmp_path: Any) -> None:
    body, shape, _ = BODIES['no bias, and the next layer reads it quantized']
    model, spec, feeds = case_of(nets.build(body, shape), 8)
    found = correct_biases(model, spec, feeds)
    program, names, fetches, scope = found.model
    done = slim.quant.export_quantized(
        program, found.spec, tmp_path / 'q', names, fetches, scope, feed=feeds[0], format=format
    )
    assert set(done.distinct) == {tensor.name for tensor in spec.of_kind('weight')}


def test_what_is_skipped_and_refused() -> None:
    def shared(x: Any) -> Any:
        attr = paddle.ParamAttr(name='shared_bias')
        one, two = (nn.Conv2D(3, 3, 3, padding=1, bias_attr=attr) for _ in range(2))
        return two(F.relu(one(x)))

    model, spec, feeds = case_of(nets.build(shared, (3, 6, 6)))
    found = correct_biases(model, spec, feeds)
    assert len(found.skipped) == 2 and not found.corrections
    assert all("bias 'shared_bias' is used by other operators" in text for text in found.skipped.values())
    with pytest.raises(DataError, match='no batch'):
        correct_biases(model, spec, [])
    with pytest.raises(GraphError, match=r"batch 2 feeds \['y'\]"):
        correct_biases(model, spec, [feeds[0], {'y': feeds[0]['x']}])
    model, spec, feeds = case_of(nets.build(BODIES['linear'][0], (12,)))
    feeds[1]['x'][0, 0] = np.nan
    with pytest.raises(DataError, match='not finite on batch 2'):
        correct_biases(model, spec, feeds)
