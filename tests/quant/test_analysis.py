"""Analysis of culprits: errors on runtimes, single layers, and the fewest layers in float."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.errors import CheckpointError, ConfigError, DataError
from paddleslim_ng.quant.analysis import Analysis
from paddleslim_ng.quant.error_figures import ErrorSums
from paddleslim_ng.quant.float_layers import fewest_float_layers
from paddleslim_ng.quant.layer_errors import RuntimeErrors
from paddleslim_ng.quant.runtime_errors import runtime_errors
from paddleslim_ng.runtime import InferenceModel
from tests.quant import quantized_nets as nets

RANDOM = np.random.default_rng(3)
FEEDS = [{'x': RANDOM.standard_normal((4, 3, 8, 8)).astype('float32')} for _ in range(2)]
IMAGES = np.concatenate([feed['x'] for feed in FEEDS])


@pytest.fixture(scope='module')
def model() -> InferenceModel:
    paddle.enable_static()
    net = nets.conv_net()
    return slim.quant.fold_batch_norm(net.program, net.feeds, net.fetches, net.scope).model


@pytest.fixture(scope='module')
def done(model: InferenceModel) -> slim.quant.QuantizedModel:
    return slim.quant.quantize_model(model, FEEDS, algo='abs_max', fold=False)


@pytest.fixture(scope='module')
def saved(model: InferenceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp('float') / 'model'
    slim.runtime.save_inference_model(model.program, prefix, model.feeds, model.fetches, model.scope)
    return prefix


def run(model: InferenceModel, feed: dict[str, Any], names: Sequence[str]) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(a) for a in slim.Executor().run(model.program, feed, list(names), scope=model.scope)]


def decibels(exact: Any, found: Any) -> float:
    exact, found = np.asarray(exact, np.float64), np.asarray(found, np.float64)
    return float(10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()))


# errors on a runtime


def test_figures_are_those_of_numpy() -> None:
    a, b = (np.random.default_rng(0).standard_normal((2, 3, 5)) for _ in range(2))
    b = a + 0.1 * np.random.default_rng(1).standard_normal(a.shape)
    sums = ErrorSums()
    for x, y in zip(a, b):
        sums.add('x', x, y)
    found = sums.figures()
    assert found.sqnr == pytest.approx(decibels(a, b))
    assert found.cosine == pytest.approx(float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)))
    assert found.relative == pytest.approx(float(np.linalg.norm(a - b) / np.linalg.norm(a)))
    assert found.largest == pytest.approx(float(np.abs(a - b).max()))
    histogram = sums.histogram()
    assert histogram.exact.sum() == histogram.found.sum() == a.size
    same, nothing = ErrorSums(), ErrorSums()
    same.add('x', a, a)
    assert same.figures().sqnr == math.inf
    nothing.add('x', np.zeros(3), np.ones(3))
    assert nothing.figures().sqnr == -math.inf
    assert nothing.figures().cosine == 0.0
    with pytest.raises(DataError, match='shape'):
        sums.add('x', a, a[0])


def test_errors_in_the_executor_are_those_of_the_simulation(done: slim.quant.QuantizedModel) -> None:
    found = runtime_errors(done.model, done.spec, FEEDS, format='decomposed', runtime='executor')
    program, scope = slim.quant.simulate(done.model.program, done.spec, done.model.scope)
    simulated = done.model._replace(program=program, scope=scope)
    assert len(found.layers) == len(done.spec.operators)
    names = [layer.output for layer in found.layers]
    rows = [(run(done.model, feed, names), run(simulated, feed, names)) for feed in FEEDS]
    for place, layer in enumerate(found.layers):
        exact, rounded = (np.concatenate([row[which][place] for row in rows]) for which in (0, 1))
        assert layer.accumulated.sqnr == pytest.approx(decibels(exact, rounded), abs=0.01)
    (output,) = found.outputs.values()
    assert output.sqnr == pytest.approx(found.layers[-1].accumulated.sqnr, abs=0.01)


def test_own_errors_are_those_of_layers_with_exact_inputs(done: slim.quant.QuantizedModel) -> None:
    found = runtime_errors(done.model, done.spec, FEEDS[:1], format='decomposed', runtime='executor')
    for layer in found.layers:
        alone = done.spec.only(layer.operators)
        program, scope = slim.quant.simulate(done.model.program, alone, done.model.scope)
        one = done.model._replace(program=program, scope=scope)
        exact, rounded = (run(item, FEEDS[0], [layer.output])[0] for item in (done.model, one))
        assert layer.own.sqnr == pytest.approx(decibels(exact, rounded), abs=0.01)
    # Layers behind others that are quantized, too, have more to bear than their own rounding.
    assert sum(layer.own.sqnr > layer.accumulated.sqnr for layer in found.layers[1:]) >= 2
    assert found.layers[0].own == found.layers[0].accumulated


def test_the_culprit_is_found(done: slim.quant.QuantizedModel) -> None:
    weights = [tensor.name for tensor in done.spec.of_kind('weight')]
    limits = {name: done.statistics[name].abs_max for name in done.statistics}
    bits = {name: 2 if name == weights[2] else 8 for name in weights}
    spec = slim.quant.spec_from_thresholds(done.model.program, limits, scope=done.model.scope, weight_bits=bits)
    found = runtime_errors(done.model, spec, FEEDS, runtime='executor')
    assert found.ranked()[0].weights == (weights[2],)
    assert found.ranked()[0].own.sqnr < found.ranked()[1].own.sqnr - 10
    assert weights[2] in str(found).splitlines()[2]
    with pytest.raises(ConfigError, match='ranked by'):
        found.ranked('size')


def test_paddle_inference_int8_is_measured_as_it_computes(done: slim.quant.QuantizedModel) -> None:
    found = runtime_errors(done.model, done.spec, FEEDS[:1], runtime='int8')
    reference = runtime_errors(done.model, done.spec, FEEDS[:1], runtime='executor')
    assert len(found.layers) == len(reference.layers)
    assert all(layer.own.cosine > 0.99 for layer in found.layers)
    # The kernels round in other places than the simulation; the figures say so.
    assert [layer.accumulated for layer in found.layers] != [layer.accumulated for layer in reference.layers]
    assert found.runtime == 'int8'


def test_other_runtimes_plug_in(done: slim.quant.QuantizedModel) -> None:
    calls: list[str] = []

    def exact_runtime(prefix: Path, feeds: Any) -> Any:
        saved = slim.runtime.load_inference_model(prefix)
        calls.append(prefix.name)
        return [slim.Executor().run(saved.program, dict(feed), saved.fetches) for feed in feeds]

    found = runtime_errors(done.model, done.spec, FEEDS, runtime=exact_runtime)
    reference = runtime_errors(done.model, done.spec, FEEDS, runtime='executor')
    assert found.runtime == 'exact_runtime'
    assert [layer.own.sqnr for layer in found.layers] == pytest.approx([layer.own.sqnr for layer in reference.layers])
    assert len(calls) >= 3
    with pytest.raises(DataError, match='0 outputs'):
        runtime_errors(done.model, done.spec, FEEDS, runtime=lambda prefix, feeds: [[] for _ in feeds])
    with pytest.raises(ConfigError, match="unknown runtime 'lite'"):
        runtime_errors(done.model, done.spec, FEEDS, runtime='lite')
    with pytest.raises(ConfigError, match='unknown format'):
        runtime_errors(done.model, done.spec, FEEDS, format='onnx')


def test_paddle_lite_plugs_in(done: slim.quant.QuantizedModel) -> None:
    def lite(prefix: Path, feeds: Any) -> Any:
        converted = slim.deploy.to_lite(prefix, prefix.with_name('lite'), 'x86', 'int8', check=False)
        rows = []
        with slim.deploy.lite_process.LiteProcess(converted.file) as process:
            for feed in feeds:
                process.set_inputs({name: feed[name] for name in process.inputs})
                process.run()
                rows.append(list(process.outputs().values()))
        return rows

    found = runtime_errors(done.model, done.spec, FEEDS[:1], runtime=lite)
    assert found.runtime == 'lite'
    # Its x86 kernels are less exact than the simulation, by 20 dB and more; see docs/reference/deploy.md.
    assert all(10 < layer.own.sqnr < 40 for layer in found.layers)


@pytest.fixture(scope='module')
def errors(done: slim.quant.QuantizedModel) -> RuntimeErrors:
    return runtime_errors(done.model, done.spec, FEEDS, runtime='executor')


def test_errors_are_written_as_text_tables_and_pictures(errors: RuntimeErrors, tmp_path: Path) -> None:
    errors.save_json(tmp_path / 'errors.json')
    content = json.loads((tmp_path / 'errors.json').read_text())
    assert [row['output'] for row in content['layers']] == [layer.output for layer in errors.layers]
    assert content['layers'][0]['own']['sqnr'] == errors.layers[0].own.sqnr
    assert sum(content['layers'][0]['histogram']['exact']) == 8 * 8 * 8 * 8
    errors.save_csv(tmp_path / 'errors.csv')
    rows = list(csv.DictReader((tmp_path / 'errors.csv').open()))
    assert [float(row['accumulated_sqnr']) for row in rows] == [layer.accumulated.sqnr for layer in errors.layers]
    figure = errors.plot(tmp_path / 'errors.png', worst=2)
    assert (tmp_path / 'errors.png').read_bytes()[:4] == b'\x89PNG'
    assert len(figure.axes) == 3
    with pytest.raises(ConfigError, match='cannot write'):
        errors.plot(tmp_path / 'errors.word')


# single layers


def evaluation(model: InferenceModel) -> Any:
    """Return an eval_function whose metric is minus the mean error of the outputs, as a user would write it."""
    exact = run(model, {'x': IMAGES}, [slim.GraphWrapper.name_of(item) for item in model.fetches])[0]
    calls: list[float] = []

    def evaluate(executor: Any, program: Any, feed_list: Any, fetch_list: Any) -> float:
        (found,) = executor.run(program, feed={feed_list[0]: IMAGES}, fetch_list=fetch_list)
        calls.append(1.0 - float(np.abs(found - exact).mean()))
        return calls[-1]

    evaluate.calls = calls  # type: ignore[attr-defined]
    return evaluate


CONFIG = {'algo': 'abs_max', 'batch_size': 4, 'weight_bits': 4, 'onnx_format': True}


def test_metrics_are_those_of_each_layer_alone(model: InferenceModel, saved: Path, tmp_path: Path) -> None:
    evaluate = evaluation(model)
    analysis = Analysis(
        saved, data_loader=IMAGES, eval_function=evaluate, save_dir=tmp_path / 'found', quant_config=CONFIG
    )
    found = analysis.metric_error_analyse()
    assert analysis.fp_metric == pytest.approx(1.0, abs=1e-6)
    assert analysis.quant_metric is not None
    assert len(evaluate.calls) == len(found) + 2
    analysed = analysis.analysed
    for name, operators in analysed.layers().items():
        program, scope = slim.quant.simulate(
            analysed.model.program, analysed.spec.only(operators), analysed.model.scope
        )
        names = [slim.GraphWrapper.name_of(item) for item in analysed.model.fetches]
        rounded = run(analysed.model._replace(program=program, scope=scope), {'x': IMAGES}, names)[0]
        exact = run(analysed.model, {'x': IMAGES}, names)[0]
        assert found[name] == pytest.approx(float(np.abs(rounded - exact).mean()), rel=1e-3, abs=1e-6)
    assert analysis.sensitivity_ranklist[0] == max(found, key=lambda name: found[name])
    lines = (tmp_path / 'found' / 'analysis.txt').read_text().splitlines()
    assert [line.split(',')[0] for line in lines] == [f'layer name: {name}' for name in analysis.sensitivity_ranklist]


def test_an_analysis_is_resumed(model: InferenceModel, saved: Path, tmp_path: Path) -> None:
    options: Any = {'data_loader': IMAGES, 'save_dir': tmp_path / 'found', 'quant_config': CONFIG}
    first = Analysis(saved, eval_function=evaluation(model), **options).metric_error_analyse()
    again = evaluation(model)
    second = Analysis(saved, eval_function=again, resume=True, **options).metric_error_analyse()
    assert second == first
    assert not again.calls
    with pytest.raises(CheckpointError, match='metric'):
        Analysis(saved, resume=True, **options).metric_error_analyse()
    fresh = evaluation(model)
    Analysis(saved, eval_function=fresh, **options).metric_error_analyse()
    assert len(fresh.calls) == len(first) + 2


def test_cosines_serve_without_a_metric(saved: Path, tmp_path: Path) -> None:
    analysis = Analysis(saved, data_loader=IMAGES, save_dir=tmp_path / 'found', quant_config=CONFIG)
    found = analysis.metric_error_analyse()
    assert analysis.fp_metric == pytest.approx(1.0)
    assert all(0 < value < 0.5 for value in found.values())
    with pytest.raises(ConfigError, match='needs an eval_function'):
        analysis.get_target_quant_model(0.9)


def test_a_quantized_model_returns_to_float_layer_by_layer(model: InferenceModel, saved: Path, tmp_path: Path) -> None:
    slim.quant.quant_post_static(
        None, saved, tmp_path / 'int8', data_loader=IMAGES, batch_size=4, algo='abs_max', weight_bits=4
    )
    evaluate = evaluation(model)
    options: Any = {'data_loader': IMAGES, 'eval_function': evaluate, 'quant_config': {'batch_size': 4}}
    analysis = Analysis(saved, tmp_path / 'int8', save_dir=tmp_path / 'found', **options)
    found = analysis.metric_error_analyse()
    reference = Analysis(saved, save_dir=tmp_path / 'other', **{**options, 'quant_config': CONFIG})
    reference.metric_error_analyse()
    assert analysis.quant_metric == pytest.approx(reference.quant_metric, abs=1e-5)
    analysed = reference.analysed
    layers = list(analysed.layers())
    for name in layers:
        form, _ = analysed.form([other for other in layers if other != name])
        names = [slim.GraphWrapper.name_of(item) for item in form.fetches]
        exact, rounded = (run(item, {'x': IMAGES}, names)[0] for item in (analysed.model, form))
        expected = 1.0 - float(np.abs(rounded - exact).mean()) - float(analysis.quant_metric or 0.0)
        assert found[name] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ConfigError, match='quantization.json'):
        Analysis(saved, saved, save_dir=tmp_path / 'none', **options).metric_error_analyse()


def test_statistics_are_those_of_numpy(model: InferenceModel, saved: Path, tmp_path: Path) -> None:
    analysis = Analysis(saved, data_loader=IMAGES, save_dir=tmp_path / 'found', quant_config=CONFIG)
    rows = {row['Var Name']: row for row in analysis.statistical_analyse()}
    written = list(csv.DictReader((tmp_path / 'found' / 'statistic.csv').open()))
    assert [row['Var Name'] for row in written] == list(rows)
    assert rows['x']['FP32 Std'] == pytest.approx(float(IMAGES.std()), rel=1e-5)
    assert rows['x']['Diff Max'] <= float(np.abs(IMAGES).max()) / 127 / 2 + 1e-6
    weight = next(name for name, row in rows.items() if row['Var Type'] == 'Weight')
    array = slim.core.load_array(analysis.analysed.model.scope, weight)
    tensor = analysis.analysed.spec.tensors[weight]
    assert rows[weight]['FP32 Min'] == pytest.approx(float(array.min()))
    assert rows[weight]['Quantized Mean'] == pytest.approx(
        float(slim.quant.fake_quantize(array, tensor).mean()), abs=1e-6
    )
    assert rows['x']['Corresponding Weight Name'] == weight
    pictures = {path.name for path in (tmp_path / 'found').glob('*.pdf')}
    assert pictures == {
        f'{name}.pdf'
        for kind in ('activation', 'weight')
        for name in (f'fp_{kind}_boxplot', f'quantized_{kind}_boxplot', f'{kind}_histplot')
    }
    analysis.plot_activation_distribution(axis=1)
    assert (tmp_path / 'found' / 'activation_distribution.pdf').read_bytes()[:4] == b'%PDF'
    with pytest.raises(ConfigError, match='no axis 7'):
        analysis.plot_activation_distribution(axis=7)


# the fewest layers in float


@pytest.mark.parametrize('seed', range(20))
def test_no_layer_can_be_spared(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = [f'l{place}' for place in range(7)]
    harm = {name: float(random.exponential()) for name in names}
    joint = {pair: float(random.normal(0, 0.3)) for pair in itertools.combinations(names, 2)}

    def metric(kept: tuple[str, ...]) -> float:
        quantized = [name for name in names if name not in kept]
        return -sum(harm[name] for name in quantized) - sum(
            value for pair, value in joint.items() if set(pair) <= set(quantized)
        )

    target = float(random.uniform(metric(()), 0.0))
    ranked = sorted(names, key=lambda name: -harm[name])
    found = fewest_float_layers(ranked, metric, target)
    assert found.metric == metric(found.layers) >= target
    for name in found.layers:
        assert metric(tuple(other for other in found.layers if other != name)) < target
    assert len({kept for kept, _ in found.evaluations}) == len(found.evaluations)
    with pytest.raises(ConfigError, match='out of reach'):
        fewest_float_layers(ranked, metric, 0.1)


def test_layers_that_only_add_up_are_the_fewest_of_all() -> None:
    harm = {'a': 5.0, 'b': 4.0, 'c': 3.0, 'd': 2.0, 'e': 1.0}
    for target in (-0.5, -3.0, -6.0, -9.5, -14.0):
        found = fewest_float_layers(list(harm), lambda kept: -sum(v for k, v in harm.items() if k not in kept), target)
        best = min(
            len(kept)
            for size in range(6)
            for kept in itertools.combinations(harm, size)
            if -sum(v for k, v in harm.items() if k not in kept) >= target
        )
        assert len(found.layers) == best


def test_a_target_is_met_by_the_model_that_is_saved(model: InferenceModel, saved: Path, tmp_path: Path) -> None:
    evaluate = evaluation(model)
    options: Any = {'data_loader': IMAGES, 'eval_function': evaluate, 'save_dir': tmp_path / 'found'}
    analysis = Analysis(saved, quant_config={**CONFIG, 'weight_bits': 3}, **options)
    analysis.metric_error_analyse()
    low, high = float(analysis.quant_metric or 0.0), float(analysis.fp_metric or 0.0)
    target = low + 0.6 * (high - low)
    found = analysis.get_target_quant_model(target)
    assert found.metric >= target > low
    assert 0 < len(found.float_layers) < len(analysis.layer_metrics)
    loaded = slim.runtime.load_inference_model(found.exported.prefix)
    (rounded,) = slim.Executor().run(loaded.program, {'x': IMAGES}, loaded.fetches)
    names = [slim.GraphWrapper.name_of(item) for item in model.fetches]
    measured = 1.0 - float(np.abs(rounded - run(model, {'x': IMAGES}, names)[0]).mean())
    assert measured == pytest.approx(found.metric, abs=0.01 * (high - low))
    assert set(found.exported.distinct) == set(analysis.layer_metrics) - set(found.float_layers)
    assert found.float_layers[0] in str(found)
    spec = slim.quant.QuantizationSpec.load(tmp_path / 'found' / 'target_quant_model' / 'model.quantization.json')
    assert spec == found.spec
    assert analysis.get_target_quant_model(low).float_layers == ()
    with pytest.raises(ConfigError, match='out of reach'):
        analysis.get_target_quant_model(high + 1.0)


def test_unusable_arguments_are_refused(saved: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'algorithm'"):
        Analysis(saved, quant_config={'algorithm': 'KL'})
    with pytest.raises(ConfigError, match='bias_correction'):
        Analysis(saved, quant_config={'bias_correction': True})
    with pytest.raises(ConfigError, match='needs data'):
        Analysis(saved).metric_error_analyse()
