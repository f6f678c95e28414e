"""to_lite on real networks, in every form that it takes, with everything that can be asked for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.deploy.interpreters import find_interpreter
from paddleslim_ng.deploy.nb import read_nb
from paddleslim_ng.errors import ConfigError, DataError, DeployError, EquivalenceError, GraphError
from paddleslim_ng.models import layers
from tests.deploy import lite_nets as nets

FAST: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    'LeNet': ((1, 28, 28), {}),
    'MobileNet': ((3, 32, 32), {'scale': 0.25}),
    'ResNet18': ((3, 32, 32), {'scale': 0.25}),
    'VisionTransformer': ((3, 32, 32), {'scale': 0.34, 'depth': 2, 'head_dim': 8}),
}


@pytest.fixture(scope='module')
def lenet() -> nets.Net:
    paddle.enable_static()
    return nets.zoo('LeNet', (1, 28, 28))


@pytest.fixture(scope='module')
def lenet_files(lenet: nets.Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nets.save(lenet, tmp_path_factory.mktemp('saved') / 'lenet')


@pytest.fixture(scope='module')
def lenet_int8(lenet: nets.Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nets.quantize(lenet, tmp_path_factory.mktemp('quantized'), onnx_format=False)


def convert(net: nets.Net, out: Path, *args: Any, **kwargs: Any) -> slim.deploy.LiteModel:
    return slim.deploy.to_lite(net.program, out, *args, fetches=net.fetches, scope=net.scope, **kwargs)


@pytest.mark.parametrize('name', FAST)
def test_zoo_for_arm_and_x86(name: str, tmp_path: Path) -> None:
    shape, kwargs = FAST[name]
    net = nets.zoo(name, shape, **kwargs)
    arm = convert(net, tmp_path / 'arm')
    assert (arm.file, arm.target, arm.verification) == (tmp_path / 'arm.nb', 'arm', None)
    assert arm.nb.targets == ('arm',)
    x86 = convert(net, tmp_path / 'x86.nb', 'x86', feed=net.images)
    assert x86.verification is not None
    assert x86.verification.figures is not None
    assert x86.verification.figures.relative_difference < 2e-5
    with slim.deploy.LiteProcess(x86.file) as process:
        process.set_inputs(net.images)
        process.run()
        (found,) = process.outputs().values()
    reference = nets.expected(net)
    np.testing.assert_allclose(found, reference, atol=1e-5 * np.abs(reference).max())
    assert sorted(path.name for path in tmp_path.iterdir()) == ['arm.nb', 'x86.nb']


def test_every_form_of_model_gives_the_same_file(lenet: nets.Net, lenet_files: Path, tmp_path: Path) -> None:
    program_file = next(lenet_files.parent.glob('lenet.[jp]*[ln]'))
    loaded = slim.runtime.load_inference_model(lenet_files, paddle.static.Scope())
    forms = [lenet_files, str(lenet_files), program_file, lenet_files.parent, loaded]
    kernels = {computing(convert(lenet, tmp_path / 'program', 'x86', check=False))}
    for index, model in enumerate(forms):
        result = slim.deploy.to_lite(model, tmp_path / str(index), 'x86', check=False)
        assert slim.deploy.verify(result, lenet.images, predictors=1).passed
        kernels.add(computing(result))
    assert len(kernels) == 1
    assert (tmp_path / '0.nb').read_bytes() == (tmp_path / '1.nb').read_bytes()


def test_the_named_format_is_taken_where_there_are_both(tmp_path: Path, ir: str) -> None:
    if ir == 'pir':
        one = nets.build(lambda image: paddle.flatten(layers.conv(image, 4, 3, name='c'), 1), (1, 6, 6))
        other = nets.build(lambda image: paddle.flatten(layers.conv(image, 4, 3, name='c'), 1), (1, 6, 6), seed=4)
        nets.save(other, tmp_path / 'net', 'pdmodel')
        nets.save(one, tmp_path / 'json' / 'net', 'json')
        (tmp_path / 'json' / 'net.json').rename(tmp_path / 'net.json')
        result = slim.deploy.to_lite(tmp_path / 'net.pdmodel', tmp_path / 'out', 'x86')
        assert slim.deploy.verify(result, other.images).passed
        assert Path(result.reference).suffix == '.pdmodel'


def test_folder_of_paddle_1(lenet: nets.Net, tmp_path: Path) -> None:
    prefix = nets.save(lenet, tmp_path / 'new' / 'lenet', 'pdmodel')
    old = tmp_path / 'old'
    old.mkdir()
    (old / '__model__').write_bytes(prefix.with_suffix('.pdmodel').read_bytes())
    (old / '__params__').write_bytes(prefix.with_suffix('.pdiparams').read_bytes())
    result = slim.deploy.to_lite(old, tmp_path / 'out', 'x86')
    assert result.verification is not None
    assert slim.deploy.verify(result, lenet.images, lenet.program, fetches=lenet.fetches, scope=lenet.scope).passed


def computing(result: slim.deploy.LiteModel) -> tuple[Any, ...]:
    """Return the kernels but for the ``scale`` by one that Paddle 2.6 puts before every output when it saves."""
    return tuple(kernel for kernel in result.kernels if kernel.op != 'scale')


def test_result_remembers_the_program_as_it_was(tmp_path: Path) -> None:
    net = nets.build(lambda image: paddle.flatten(layers.conv(image, 4, 3, name='c'), 1), (1, 6, 6))
    result = convert(net, tmp_path / 'net', 'x86')
    weights = slim.core.load_array(net.scope, 'c_weights')
    slim.core.store_array(net.scope, 'c_weights', weights * 2)
    assert slim.deploy.verify(result, net.images).passed
    with pytest.raises(EquivalenceError, match='differ from the reference'):
        slim.deploy.verify(result, net.images, net.program, fetches=net.fetches, scope=net.scope)


def test_report_and_warnings(lenet: nets.Net, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, 'paddleslim_ng'):
        result = convert(lenet, tmp_path / 'net')
    assert [record.getMessage() for record in caplog.records] == [f'net.nb: {text}' for text in result.warnings]
    version, channels = result.warnings
    assert find_interpreter().opt_version == result.opt_version
    assert result.opt_version in version
    assert 'conv1_weights 6' in channels
    assert 'conv2_weights' not in channels  # it has 16
    for words in (str(result.file), result.opt_version, f'{result.file_bytes} bytes', '3 x fc arm fp32', version):
        assert words in result.report == str(result)


def test_fp16_and_storage(lenet: nets.Net, tmp_path: Path) -> None:
    fp32 = convert(lenet, tmp_path / 'fp32')
    assert not fp32.nb.fp16_kernels
    fp16 = convert(lenet, tmp_path / 'fp16', 'arm', 'fp16')
    assert {'conv2d', 'fc'} <= {kernel.op for kernel in fp16.nb.fp16_kernels}
    sizes = [fp32.file_bytes]
    for precision in ('int16_storage', 'int8_storage'):
        stored = convert(lenet, tmp_path / precision, 'arm', precision)
        assert not stored.nb.int8_kernels
        assert any('shrinks the file only' in text for text in stored.warnings)
        sizes.append(stored.file_bytes)
    parameters = 4 * 61_706
    assert sizes[0] - sizes[1] > 0.45 * parameters
    assert sizes[0] - sizes[2] > 0.7 * parameters
    with pytest.raises(DeployError, match=r"'fp16' was asked for and Paddle Lite chose no fp16 kernel on 'x86'"):
        convert(lenet, tmp_path / 'none', 'x86', 'fp16')
    assert not (tmp_path / 'none.nb').exists()


def test_int8(lenet: nets.Net, lenet_int8: Path, tmp_path: Path) -> None:
    result = slim.deploy.to_lite(lenet_int8, tmp_path / 'int8', 'arm', 'int8')
    assert {k.op for k in result.nb.int8_kernels} == {'conv2d', 'fc'}
    assert len(result.nb.int8_kernels) == 5
    assert result.changes['quantized_products'] == 3
    assert result.file_bytes < 0.4 * convert(lenet, tmp_path / 'fp32').file_bytes
    with pytest.raises(DeployError, match='quantize it first'):
        convert(lenet, tmp_path / 'none', 'arm', 'int8')
    with pytest.raises(DeployError, match=r"take precision='int8'"):
        slim.deploy.to_lite(lenet_int8, tmp_path / 'none', 'arm', 'fp32')
    x86 = slim.deploy.to_lite(lenet_int8, tmp_path / 'x86', 'x86', 'int8', check=False)
    assert any('use Paddle Inference' in text for text in x86.warnings)
    assert not (tmp_path / 'none.nb').exists()


def sparse_net(share: float) -> nets.Net:
    """Pointwise convolutions of which a share of the weights is zero."""

    def body(image: Any) -> Any:
        y = layers.conv(image, 32, 3, name='c0', act='relu')
        for index in range(3):
            y = layers.conv(y, 32, 1, name=f'c{index + 1}', act='relu')
        return layers.global_average(y)

    net = nets.build(body, (3, 16, 16))
    random = np.random.default_rng(0)
    for index in range(3):
        name = f'c{index + 1}_weights'
        weights = slim.core.load_array(net.scope, name)
        zeros = random.permutation(weights.size) < share * weights.size
        slim.core.store_array(net.scope, name, np.where(zeros.reshape(weights.shape), 0, weights).astype('float32'))
    return net


def test_sparse(tmp_path: Path) -> None:
    result = convert(sparse_net(0.8), tmp_path / 'sparse', 'arm', 'fp32', 0.5)
    assert len(result.nb.sparse_kernels) >= 2
    with pytest.raises(DeployError, match=r'no sparse kernel was chosen.*at least 0\.9'):
        convert(sparse_net(0.8), tmp_path / 'none', sparse=0.9)
    grown = convert(sparse_net(0.45), tmp_path / 'grown', sparse=0.3)
    dense = convert(sparse_net(0.45), tmp_path / 'dense')
    assert grown.file_bytes > dense.file_bytes
    assert any(f'{grown.file_bytes} bytes against {dense.file_bytes}' in text for text in grown.warnings)


def test_opencl_and_metal(lenet: nets.Net, tmp_path: Path) -> None:
    for target in ('opencl', 'metal'):
        result = convert(lenet, tmp_path / target, target)
        assert result.nb.on_target(target)
        verification = slim.deploy.verify(result, lenet.images)
        assert not verification.executed
        assert 'structure verified, not executed' in str(verification)


def test_another_converter(lenet_files: Path, tmp_path: Path) -> None:
    """The wheel brings a script with the command line of the ``opt`` binaries."""
    script = find_interpreter().path.parent / 'paddle_lite_opt'
    result = slim.deploy.to_lite(lenet_files, tmp_path / 'own', 'arm', 'fp16', opt=script)
    assert result.nb.fp16_kernels
    assert result.kernels == slim.deploy.to_lite(lenet_files, tmp_path / 'wheel', 'arm', 'fp16').kernels
    with pytest.raises(DeployError, match='cannot start'):
        slim.deploy.to_lite(lenet_files, tmp_path / 'none', opt=tmp_path / 'no_such_opt')
    with pytest.raises(DeployError, match='without writing a file'):
        slim.deploy.to_lite(lenet_files, tmp_path / 'none', opt='true')


def test_impossible_requests(lenet: nets.Net, lenet_files: Path, tmp_path: Path) -> None:
    out = tmp_path / 'none'
    with pytest.raises(ConfigError, match=r"unknown target 'amr'.*did you mean 'arm'"):
        convert(lenet, out, 'amr')
    with pytest.raises(ConfigError, match='unknown precision'):
        convert(lenet, out, 'arm', 'int4')
    with pytest.raises(ConfigError, match='share of zeros'):
        convert(lenet, out, sparse=50)
    with pytest.raises(ConfigError, match='no sparse kernels'):
        convert(lenet, out, 'x86', sparse=0.5)
    with pytest.raises(ConfigError, match='fetches'):
        slim.deploy.to_lite(lenet.program, out, scope=lenet.scope)
    with pytest.raises(ConfigError, match='InferenceModel'):
        slim.deploy.to_lite(42, out)
    with pytest.raises(DataError, match='no_such'):
        slim.deploy.to_lite(tmp_path / 'no_such', out)
    with pytest.raises(GraphError):
        slim.deploy.to_lite(lenet.program, out, fetches=['no_such'], scope=lenet.scope)
    nets.save(lenet, lenet_files.parent / 'two' / 'a')
    nets.save(lenet, lenet_files.parent / 'two' / 'b')
    with pytest.raises(DataError, match=r"holds the models \['a', 'b'\]"):
        slim.deploy.to_lite(lenet_files.parent / 'two', out)
    assert list(tmp_path.iterdir()) == []


def test_read_back(lenet: nets.Net, tmp_path: Path) -> None:
    result = convert(lenet, tmp_path / 'net')
    again = read_nb(result.file)
    assert again == result.nb
    assert again.file_bytes == result.file.stat().st_size


def test_biases_of_four_axes_become_part_of_the_convolution(tmp_path: Path, ir: str) -> None:
    net = nets.build(lambda image: layers.conv_bn(image, 8, 3, name='first', act='relu'), (3, 8, 8))
    folded = slim.quant.fold_batch_norm(net.program, net.feeds, net.fetches, net.scope, feed=net.images).model
    result = slim.deploy.to_lite(folded, tmp_path / 'net', 'x86', feed=net.images)
    assert result.changes['channel_biases'] == (1 if ir == 'pir' else 0)  # legacy programs have them flat
    assert [kernel.op for kernel in result.kernels if kernel.target == 'x86'] == ['conv2d']
    assert result.verification is not None and result.verification.passed
