"""paddleslim-ng prune: every way to say how much leaves, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import load_array
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.runtime import load_inference_model
from tests.cli.pruned_models import call, make_models


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp('models'))


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    model = load_inference_model(path, paddle.static.Scope())
    graph = slim.GraphWrapper(model.program)
    names = [op.inputs('Filter')[0].name() for op in graph.ops() if op.inputs('Filter')]
    return {name: load_array(model.scope, name).shape for name in names}


def logits_of(path: Path, images: np.ndarray, zero: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """Run a model in Paddle's own executor, filters as they are or replaced."""
    scope = paddle.static.Scope()
    model = load_inference_model(path, scope)
    for name, value in (zero or {}).items():
        slim.core.store_array(scope, name, value)
    executor = paddle.static.Executor(paddle.CPUPlace())
    with paddle.static.scope_guard(scope), matching_ir(model.program):
        (found,) = executor.run(model.program, {model.feeds[0]: images}, list(model.fetches))
    return np.asarray(found)


def test_one_ratio_computes_what_zeroed_channels_compute(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'small' / 'net'
    code, text, _ = call(capsys, 'prune', models / 'rgb', '--ratio', 0.5, '--params', 'second.*', '-o', out, '--json')
    assert code == 0
    found = json.loads(text)
    assert found['channels'] == {'second_weights': [16, 8]}
    assert shapes_in(out) == {'first_weights': (16, 3, 3, 3), 'second_weights': (8, 16, 3, 3)}
    assert found['pruned']['bytes'] == sum(
        path.stat().st_size for path in out.parent.iterdir() if path.suffix != '.html'
    )
    # 64 positions, 16 x 3 x 9 multiplications, then c x 16 x 9, then c x 64 x 10 once.
    assert [found[one]['flops'] for one in ('original', 'pruned')] == [
        64 * 16 * 3 * 9 + 64 * c * 16 * 9 + c * 64 * 10 for c in (16, 8)
    ]
    # The channels of least L1 norm, taken out of the float model by hand: their batch norm and its offset, too.
    scope = paddle.static.Scope()
    load_inference_model(models / 'rgb', scope)
    weights = load_array(scope, 'second_weights')
    gone = np.argsort(np.abs(weights).sum(axis=(1, 2, 3)))[:8]
    kept = np.setdiff1d(np.arange(16), gone)
    small = paddle.static.Scope()
    load_inference_model(out, small)
    np.testing.assert_array_equal(load_array(small, 'second_weights'), weights[kept])
    zero = {}
    for name in ('second_bn_scale', 'second_bn_offset'):
        zero[name] = load_array(scope, name).copy()
        zero[name][gone] = 0
    images = np.load(models / 'images.npy')
    np.testing.assert_allclose(logits_of(out, images), logits_of(models / 'rgb', images, zero), rtol=1e-4, atol=1e-4)


def test_flops_with_a_report_and_a_metric(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ['--data', 'digits', '--batches', 2]
    arguments = [models / 'grey', '--flops', 0.5, '--round-to', 1, '-o', tmp_path / 'net', *data]
    code, text, _ = call(capsys, 'prune', *arguments, '--report', tmp_path / 'report.html')
    assert code == 0
    assert 'pruned equals masked on 1 outputs' in text and 'top1' in text
    page = (tmp_path / 'report.html').read_text()
    assert 'first_weights' in page and 'grey, pruned' in page
    code, text, _ = call(capsys, 'prune', *arguments, '--metric', 'agreement', '--json')
    found = json.loads(text)
    assert found['pruned']['flops'] == pytest.approx(0.5 * found['original']['flops'], rel=0.04)
    assert found['original']['agreement'] == pytest.approx(1.0, abs=1e-5)
    images = slim.data.digits(size=8).validation.images[:64]
    before, after = logits_of(models / 'grey', images), logits_of(tmp_path / 'net', images)
    parts = [slice(0, 32), slice(32, 64)]
    distance = np.mean([np.linalg.norm(after[p] - before[p]) / np.linalg.norm(before[p]) for p in parts])
    assert found['pruned']['agreement'] == pytest.approx(1 - distance, abs=1e-4)
    assert (tmp_path / 'net.html').is_file()


def test_by_sensitivities(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / 'one.json', tmp_path / 'two.json'
    for file, ratio in ((one, 0.25), (two, 0.5)):
        data = ['--data', models / 'images.npy', '--ratios', ratio, '-o', file]
        assert call(capsys, 'sensitivity', models / 'rgb', *data)[0] == 0
    merged = slim.prune.merge_sensitive([one, two])
    loss = sorted(curve[0.5] for curve in merged.values())[0] + 1e-6
    given = ['--sensitivities', one, '--sensitivities', two]
    arguments = [models / 'rgb', *given, '--loss', loss, '--round-to', 4, '-o', tmp_path / 'a', '--json']
    code, text, _ = call(capsys, 'prune', *arguments)
    found = json.loads(text)
    assert code == 0
    assert found['ratios'] == slim.prune.get_ratios_by_loss(merged, loss, monotone=True)
    assert 0.5 in found['ratios'].values()
    arguments = [models / 'rgb', *given, '--flops', 0.4, '--round-to', 1, '-o', tmp_path / 'b', '--json']
    code, text, _ = call(capsys, 'prune', *arguments)
    found = json.loads(text)
    assert code == 0
    assert found['pruned']['flops'] == pytest.approx(0.6 * found['original']['flops'], rel=0.05)
    # The parameter that suffers less loses more.
    order = sorted(merged, key=lambda name: merged[name][0.25])
    assert found['ratios'][order[0]] > found['ratios'][order[1]]
    assert not [note for note in found['notes'] if 'otherwise' in note]
    # Losses that were measured on something else are used, and the report says so.
    state = {**json.loads(two.read_text()), 'fingerprint': '0'}
    (tmp_path / 'three.json').write_text(json.dumps(state))
    arguments = [models / 'rgb', '--sensitivities', tmp_path / 'three.json', '--flops', 0.4, '--round-to', 1]
    _, text, _ = call(capsys, 'prune', *arguments, '--criterion', 'l2_norm', '-o', tmp_path / 'c', '--json')
    notes = [note for note in json.loads(text)['notes'] if 'three.json was measured otherwise' in note]
    assert len(notes) == 2 and 'the network' in notes[0] and 'the criterion' in notes[1]


def test_listed_ratios_and_a_verdict(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    amount = ['--params', 'first_weights,second_weights', '--ratios', '0.25,0.5', '--round-to', 4]
    arguments = [models / 'rgb', *amount, '-o', tmp_path / 'net', '--measure', '--repeats', 2, '--format', 'pdmodel']
    code, text, _ = call(capsys, 'prune', *arguments, '--json')
    assert code == 0
    found = json.loads(text)
    assert found['channels'] == {'first_weights': [16, 12], 'second_weights': [16, 8]}
    assert found['file'].endswith('net.pdmodel')
    assert found['measured']['verdict']
    assert {row['model'] for row in found['measured']['rows']} == {'original', 'pruned'}
    assert 'Latency' in (tmp_path / 'net.html').read_text()


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (['--ratio', '1.5'], 2, '--ratio takes shares between 0 and 1'),
        (['--flops', '0'], 2, '--flops takes shares between 0 and 1'),
        (['--ratio', '0.5', '--flops', '0.5'], 2, 'not allowed with argument'),
        ([], 2, 'one of the arguments --ratio --ratios --loss --flops is required'),
        (['--ratios', '0.5'], 2, '1 --ratios, but 0 --params'),
        (['--params', 'first.*,.*', '--ratios', '0.5,0.25'], 2, "two entries of --params name 'first_weights'"),
        (['--ratio', '0.5', '--params', 'frist.*'], 2, "['first_weights', 'second_weights']"),
        (['--ratio', '0.5', '--params', '('], 2, 'is no regular expression'),
        (['--loss', '0.1'], 2, '--loss needs --sensitivities'),
        (['--ratio', '0.5', '--sensitivities', 'x'], 2, '--sensitivities belongs to --loss or --flops'),
        (['--loss', '0.1', '--sensitivities', 'nowhere.json'], 3, 'cannot read sensitivities from nowhere.json'),
        (
            ['--loss', '0.1', '--sensitivities', 'STRANGE'],
            3,
            "--sensitivities are of another model: it has no ['other']",
        ),
        (['--ratio', '0.5', '--round-to', '0'], 2, '--round-to must be at least 1'),
        (['--ratio', '0.01'], 2, 'nothing would leave'),
        (['--flops', '0.02', '--round-to', '16'], 2, 'cannot be approached'),
        (['--ratio', '0.5', '--criterion', 'l3_norm'], 2, "unknown criterion 'l3_norm'"),
        (['--ratio', '0.5', '--repeats', '3'], 2, '--repeats belongs to --measure'),
        (['--ratio', '0.5', '--labels', 'x.npy'], 2, '--labels belongs to --data'),
        (['--ratio', '0.5', '--report', 'no/where.html'], 2, 'the folder of --report no/where.html is missing'),
        (['--ratio', '0.5', '-o', 'MODEL'], 2, 'is the model itself'),
    ],
)
def test_refusals(
    models: Path, arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = models / 'strange.json'
    state = {'version': 1, 'fingerprint': '', 'criterion': '', 'baseline': 1, 'sensitivities': {'other': {'0.5': 0.1}}}
    strange.write_text(json.dumps(state))
    before = {path: path.read_bytes() for path in models.iterdir() if path.is_file()}
    names = {'STRANGE': str(strange), 'MODEL': str(models / 'rgb')}
    given = [names.get(item, item) for item in arguments]
    found, _, err = call(capsys, 'prune', models / 'rgb', '-o', tmp_path / 'net', *given)
    assert (found, message in err) == (code, True), err
    assert not list(tmp_path.iterdir())
    assert {path: path.read_bytes() for path in models.iterdir() if path.is_file()} == before
