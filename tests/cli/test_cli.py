"""The program paddleslim-ng: what it prints, where, and what it ends with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.cli import main
from paddleslim_ng.cli.arguments import FORMATS
from paddleslim_ng.cli.exit_codes import ExitCode, exit_code_of
from paddleslim_ng.core import paddle_compat
from paddleslim_ng.errors import ConfigError, DataError, DeployError, EquivalenceError, GraphError, UnsupportedOpError
from paddleslim_ng.models import layers
from tests.deploy import lite_nets as nets

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (3, 16, 16)


def net(width: int = 8, seed: int = 0, unknown: bool = False) -> nets.Net:
    def body(image: Any) -> Any:
        y = layers.conv_bn(image, width, 3, name='first', act='relu')
        y = layers.conv_bn(y, 12, 3, name='second', act='relu')
        y = paddle.nn.Linear(12 * 256, 4)(paddle.flatten(y, 1))
        return paddle.digamma(paddle.lgamma(y)) if unknown else y

    return nets.build(body, SHAPE, seed)


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold ``net``, with zeros in its first filter; ``other``, of other weights; ``unknown``, of rare operators."""
    paddle.enable_static()
    folder = tmp_path_factory.mktemp('models')
    model = net()
    weight = slim.core.load_array(model.scope, 'first_weights')
    weight[:4] = 0.0
    slim.core.store_array(model.scope, 'first_weights', weight)
    nets.save(model, folder / 'net')
    nets.save(net(seed=1), folder / 'other')
    nets.save(net(unknown=True), folder / 'unknown')
    np.savez(folder / 'feeds.npz', image=model.images['image'])
    return folder


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the program in this process and return its exit code, its stdout and its stderr."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def program_file(folder: Path, name: str) -> Path:
    return next(path for path in folder.iterdir() if path.stem == name and path.suffix in ('.json', '.pdmodel'))


def test_help_is_fast_and_teaches() -> None:
    """Neither the help nor a wrong argument loads Paddle."""
    code = (
        'import sys\nfrom paddleslim_ng.cli import main\ncodes = [main(words.split()) for words in sys.argv[1:]]\n'
        'print("paddle" in sys.modules, "numpy" in sys.modules, codes)'
    )
    words = ['--help', 'inspect --help', 'convert --help', 'verify --help', 'measure --help', 'launch --help']
    words += ['--version', 'convert x']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', code, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == 'False False [0, 0, 0, 0, 0, 0, 0, 2]'
    for text in ('examples', 'exit codes:', 'paddleslim-ng convert out/net.json --to lite', '.pdmodel', '--precision'):
        assert text in done.stdout
    assert 'required: --to' in done.stderr


def test_both_ways_to_start_it_are_the_same_program(models: Path) -> None:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-m', 'paddleslim_ng', 'inspect', str(models / 'net'), '--json']
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ''
    assert json.loads(done.stdout)['operators']['conv2d'] == 2
    assert '[project.scripts]\npaddleslim-ng = "paddleslim_ng.cli:main"\n' in (ROOT / 'pyproject.toml').read_text(
        'utf-8'
    )


def test_inspect(call: Any, models: Path, ir: str) -> None:
    code, out, err = call('inspect', models / 'net', '--json')
    found = json.loads(out)
    assert code == 0 and 'rror' not in err
    assert found['ir'] == ir
    assert found['inputs'] == {'image': ['float32', [-1, *SHAPE]]}
    assert [*found['outputs'].values()] == [[-1, 4]]
    assert found['operators']['conv2d'] == 2 and found['operators']['batch_norm'] == 2
    weights = {weight['name']: weight for weight in found['weights']}
    sizes = [8 * 3 * 9, 12 * 8 * 9, 12 * 256 * 4]
    assert [np.prod(weight['shape']) for weight in found['weights']] == sizes
    assert weights['first_weights'] == {'name': 'first_weights', 'shape': [8, 3, 3, 3], 'zeros': 0.5, 'bits': 32}
    assert found['sparsity'] == pytest.approx(108 / sum(sizes))
    assert found['parameters'] == sum(sizes) + 4 * (8 + 12) + 4
    assert found['parameter_bytes'] == 4 * found['parameters']
    assert found['macs'] == 256 * sum(sizes[:2]) + sizes[2]
    assert found['odd_channels'] == {'second_weights': 12}
    assert found['quantization'] == {}
    assert found['lite'] == {'target': 'arm', 'lacking': [], 'obstacle': ''}
    code, out, _ = call('inspect', program_file(models, 'net'), '--weights')
    assert code == 0
    assert 'channels that are no multiple of 8: second_weights 12' in out
    assert 'first_weights  [8, 3, 3, 3]  50.0%  32' in out
    assert 'input: image float32 [?, 3, 16, 16]' in out


def test_inspect_says_what_lite_lacks_and_what_it_cannot_know(call: Any, models: Path, tmp_path: Path) -> None:
    code, out, _ = call('inspect', models / 'unknown', '--target', 'opencl')
    # On PIR they are already unknown to the translation, which Lite needs: that is said instead.
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith('Paddle Lite on opencl lacks'))
    assert 'digamma' in line and 'lgamma' in line
    code, out, _ = call('inspect', models / 'net', '--json', '--interpreter', tmp_path / 'python')
    assert code == 0
    lite = json.loads(out)['lite']
    assert lite['lacking'] is None and 'no Python with Paddle Lite' in lite['obstacle']


@pytest.mark.parametrize('onnx_format', [False, True])
def test_inspect_tells_the_bits_of_a_quantized_model(call: Any, tmp_path: Path, onnx_format: bool) -> None:
    nets.quantize(net(), tmp_path, onnx_format)
    code, out, _ = call('inspect', tmp_path / 'int8', '--json')
    found = json.loads(out)
    assert code == 0
    assert list(found['quantization']) == ['8'] and found['quantization']['8'] >= 6
    assert {weight['name']: weight['bits'] for weight in found['weights']}['first_weights'] == 8
    assert len(found['weights']) == 3 and all(weight['bits'] == 8 for weight in found['weights'])


def test_names_of_models(call: Any, models: Path, tmp_path: Path) -> None:
    """A prefix, a program file, a folder with one model, or a folder and file names are the same model."""
    program = program_file(models, 'net')
    alone = tmp_path / 'alone'
    alone.mkdir()
    shutil.copy(program, alone / program.name)
    shutil.copy(models / 'net.pdiparams', alone / 'net.pdiparams')
    renamed = tmp_path / 'renamed'
    renamed.mkdir()
    shutil.copy(program, renamed / f'graph{program.suffix}')
    shutil.copy(models / 'net.pdiparams', renamed / 'weights')
    ways: list[list[Any]] = [
        [models / 'net'],
        [program],
        [alone],
        [renamed, '--model-filename', f'graph{program.suffix}', '--params-filename', 'weights'],
    ]
    answers = []
    for way in ways:
        code, out, _ = call('inspect', *way, '--json')
        assert code == 0
        answers.append({key: value for key, value in json.loads(out).items() if key != 'model'})
    assert all(answer == answers[0] for answer in answers)
    code, _, err = call('inspect', models)
    assert code == 3 and 'holds 3 models (net, other, unknown)' in err


def test_lite_from_conversion_to_verification(call: Any, models: Path, tmp_path: Path) -> None:
    arm, x86 = tmp_path / 'arm.nb', tmp_path / 'x86.nb'
    code, out, _ = call('convert', models / 'net', '--to', 'lite', '-o', arm)
    assert code == 0 and arm.is_file() and 'conv2d arm fp32' in out
    code, out, _ = call('convert', models / 'net', '--to', 'lite', '--target', 'x86', '--json', '--output', x86)
    found = json.loads(out)
    assert code == 0 and found['file'] == str(x86) and found['bytes'] == x86.stat().st_size
    assert found['verification']['executed'] is True
    code, out, _ = call('verify', arm, '--reference', models / 'net')
    assert code == 0 and 'structure verified, not executed' in out
    code, out, _ = call('verify', x86, '--reference', models / 'net', '--feeds', models / 'feeds.npz', '--json')
    found = json.loads(out)
    assert code == 0 and found['passed'] is True and found['figures']['relative_difference'] < 1e-5
    code, out, _ = call('verify', x86, '--reference', models / 'other')
    assert code == 1 and 'FAILED' in out
    code, out, _ = call('verify', x86, '--reference', models / 'other', '--tolerance', '1e9', '--batch', '1')
    assert code == 0


def test_the_other_formats(call: Any, models: Path, tmp_path: Path) -> None:
    for format in ('pdmodel', 'json') if paddle_compat.has_pir() else ('pdmodel',):
        code, out, _ = call('convert', models / 'net', '--to', format, '-o', tmp_path / format, '--json')
        found = json.loads(out)
        assert code == 0 and found['relative_difference'] < 1e-5
        assert Path(found['program_file']) == tmp_path / f'{format}.{format}'
        code, out, _ = call('verify', found['program_file'], '--reference', models / 'net', '--predictors', 1)
        assert code == 0
    code, out, _ = call('convert', tmp_path / 'pdmodel.pdmodel', '--to', 'onnx', '--opset', '14', '--json')
    found = json.loads(out)
    assert code == 0 and found['opset'] == 14 and found['file'] == str(tmp_path / 'pdmodel.onnx')
    assert len(found['parity']) == 2
    code, out, _ = call('verify', found['file'], '--reference', models / 'net', '--predictors', 1)
    assert code == 0 and 'onnxruntime: equal to the reference' in out


def test_measure(call: Any, models: Path) -> None:
    arguments = ['--engines', 'onednn,lite_arm', '--repeats', '3', '--warmup', '1']
    code, out, _ = call('measure', models / 'other', '--original', models / 'net', *arguments)
    assert code == 0
    assert 'other on Paddle Inference with oneDNN:' in out
    assert 'not executed: original, other on Lite Arm' in out
    code, out, _ = call('measure', models / 'net', *arguments, '--json', '--shape', 'image=3,3,16,16')
    found = json.loads(out)
    assert code == 0 and found['shapes'] == {'image': [3, *SHAPE]} and found['verdict']
    assert found['rows'][0]['latency']['median'] > 0 and found['rows'][1]['latency'] is None


@pytest.mark.parametrize(
    ('words', 'code', 'message'),
    [
        ('inspect {models}/none', 3, 'is missing'),
        ('inspect {models}/net --target amr', 2, "did you mean 'arm'"),
        ('convert {models}/none --to lite -o {tmp}/x', 3, 'is missing'),
        ('convert {models}/net --to lite --opset 13', 2, '--opset belongs to --to onnx'),
        ('convert {models}/net --to json --target arm', 2, '--target belongs to --to lite'),
        ('convert {models}/net --to lite --target x68 -o {tmp}/x', 2, "did you mean 'x86'"),
        ('convert {models}/net --to lite --precision int8 -o {tmp}/x', 4, 'quantized'),
        ('convert {models}/net --to lite -o {tmp}/x --interpreter {tmp}/python', 4, 'no Python with Paddle Lite'),
        ('convert {models}/unknown --to lite -o {tmp}/x', 4, 'digamma'),
        ('convert {models}/unknown --to onnx -o {tmp}/x', 4, 'digamma'),
        ('convert {models}/damaged --to lite -o {tmp}/x', 3, 'damaged'),
        (
            'convert {models}/net --to lite --target x86 -o {tmp}/x --feeds {models}/net.pdiparams',
            3,
            'cannot read arrays',
        ),
        ('verify {models}/none.nb --reference {models}/net', 3, 'no file'),
        ('verify {models}/damaged.nb --reference {models}/net', 3, 'damaged.nb'),
        ('verify {models}/net --reference {models}/net --feeds {models}/none.npz', 3, 'cannot read arrays'),
        ('verify {models}/net --reference {models}/net --batch 0', 2, '--batch must be at least 1'),
        ('measure {models}/net --engines onednn,fast', 2, "unknown engine 'fast'"),
        ('measure {models}/net {models}/net', 2, 'given twice'),
        ('measure {models}/net --shape image=1,x', 2, 'image=1,3,224,224'),
        ('measure {models}/net --shape picture=1,3,16,16', 3, "no model has an input ['picture']"),
    ],
)
def test_errors_are_one_line_and_a_code(
    call: Any, models: Path, tmp_path: Path, words: str, code: int, message: str
) -> None:
    if not (models / 'damaged.pdiparams').exists():
        program = program_file(models, 'net')
        shutil.copy(program, models / f'damaged{program.suffix}')
        (models / 'damaged.pdiparams').write_bytes((models / 'net.pdiparams').read_bytes()[:500])
        (models / 'damaged.nb').write_bytes(b'not a model')
    before = sorted(models.iterdir())
    arguments = [word.format(models=models, tmp=tmp_path) for word in words.split()]
    found, out, err = call(*arguments)
    assert found == code
    lines = [line for line in err.splitlines() if line.startswith('paddleslim-ng: error: ')]
    assert len(lines) == 1 and message in lines[0], err
    assert out == '' and 'Traceback' not in err
    assert sorted(models.iterdir()) == before and list(tmp_path.iterdir()) == []


def test_errors_for_machines(call: Any, models: Path) -> None:
    code, out, err = call('inspect', models / 'none', '--json')
    answer = json.loads(out)
    assert code == answer['exit_code'] == 3 and answer['kind'] == 'DataError'
    assert 'is missing' in answer['error'] and answer['error'] in err


def test_debug_shows_where_an_error_arose(call: Any, models: Path) -> None:
    with pytest.raises(DataError, match='is missing'):
        call('inspect', models / 'none', '--debug')


def test_unforeseen_errors_are_one_line_too(call: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> Any:
        raise ZeroDivisionError('two\nlines')

    monkeypatch.setattr(import_module('paddleslim_ng.cli.inspect_command'), 'run', fail)
    code, out, err = call('inspect', models / 'net')
    assert (code, out, err) == (4, '', 'paddleslim-ng: error: ZeroDivisionError: two lines\n')


@pytest.mark.parametrize(
    ('error', 'code'),
    [
        (EquivalenceError('x'), ExitCode.CHECK_FAILED),
        (ConfigError('x'), ExitCode.USAGE),
        (DataError('x'), ExitCode.BAD_INPUT),
        (GraphError('x'), ExitCode.BAD_INPUT),
        (UnsupportedOpError('x'), ExitCode.FAILED),
        (DeployError('x'), ExitCode.FAILED),
        (PermissionError('x'), ExitCode.FAILED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (RuntimeError('x'), ExitCode.FAILED),
    ],
)
def test_exit_codes(error: BaseException, code: ExitCode) -> None:
    assert exit_code_of(error) is code


def test_the_page_lists_what_the_program_does() -> None:
    page = (ROOT / 'docs' / 'howto' / 'command-line.md').read_text('utf-8')
    for code in (ExitCode.OK, ExitCode.CHECK_FAILED, ExitCode.USAGE, ExitCode.BAD_INPUT, ExitCode.FAILED):
        assert f'| {code.value} |' in page
    assert all(f'--to {format}' in page for format in FORMATS)
