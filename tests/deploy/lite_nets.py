"""Networks, saved and quantized, that the tests of Paddle Lite convert."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

import paddleslim_ng as slim
from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.deploy.lite_convert import ConvertJob, convert
from paddleslim_ng.deploy.nb import NbFile, read_nb

ROOT = Path(__file__).resolve().parents[2]


class Net(NamedTuple):
    """A program with its parameters."""

    program: Any
    feeds: list[str]
    fetches: list[Any]
    scope: Any
    images: dict[str, Any]


def random_parameters(program: Any, scope: Any, seed: int) -> None:
    """Give normalization statistics and offsets values other than 0 and 1."""
    random = np.random.default_rng(seed)
    for var in slim.GraphWrapper(program).all_parameters():
        if len(var.shape()) == 1:
            low = 0.7 if var.name().endswith(('_scale', '_variance')) else -0.2
            array = random.uniform(low, low + 0.5, var.shape()).astype('float32')
            slim.core.store_array(scope, var.name(), array)


def build(body: Callable[[Any], Any], shape: tuple[int, ...], seed: int = 0, open_sizes: bool = False) -> Net:
    """Build ``body(image)`` with seeded parameters; the program may leave height and width open."""
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    main.random_seed = startup.random_seed = seed + 1
    with (
        paddle.static.program_guard(main, startup),
        paddle.static.scope_guard(scope),
        paddle.utils.unique_name.guard(),
    ):
        sizes = [shape[0], None, None] if open_sizes else shape
        out = body(paddle.static.data('image', [None, *sizes], 'float32'))
        paddle.static.Executor(paddle.CPUPlace()).run(startup)
    random_parameters(main, scope, seed)
    images = np.random.default_rng(seed).standard_normal((2, *shape)).astype('float32')
    return Net(main, ['image'], [out], scope, {'image': images})


def zoo(name: str, shape: tuple[int, ...], classes: int = 10, **kwargs: Any) -> Net:
    """Build a network of the zoo, up to its logits."""
    network = slim.models.create(name, **kwargs)

    def body(image: Any) -> Any:
        network.net(image, classes)
        return network.logits

    return build(body, shape)


def save(net: Net, prefix: Path, format: str | None = None) -> Path:
    slim.runtime.save_inference_model(
        net.program, prefix, net.feeds, net.fetches, net.scope, check=False, format=format
    )
    return prefix


def expected(net: Net) -> Any:
    """Run a network's program in test mode."""
    program = slim.core.clone_program(net.program, for_test=True)
    return slim.Executor().run(program, feed=net.images, fetch_list=net.fetches, scope=net.scope)[0]


def read_program(path: Path) -> Any:
    with ir_mode(pir=False):
        return paddle_compat.LegacyProgram.parse_from_string(path.read_bytes())


def convert_as_is(program: Any, parameters: Path, folder: Path, target: str) -> NbFile:
    """Convert a legacy program without any rewriting."""
    (folder / 'as_is.pdmodel').write_bytes(program.desc.serialize_to_string())
    job = ConvertJob(str(folder / 'as_is.pdmodel'), str(parameters), str(folder / f'as_is_{target}'), target)
    return read_nb(convert(job))


class Samples(paddle.io.Dataset):
    """Images for calibration."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.images = np.random.default_rng(1).standard_normal((16, *shape)).astype('float32')

    def __getitem__(self, index: int) -> Any:
        return (self.images[index],)

    def __len__(self) -> int:
        return len(self.images)


def quantize(net: Net, folder: Path, onnx_format: bool) -> Path:
    """Quantize a network with Paddle's own calibration and return the path prefix of the result.

    Paddle calibrates legacy programs only, and only in a process that has never been in PIR mode.
    """
    save(net, folder / 'float' / 'net', 'pdmodel')
    shape = [int(size) for size in net.images['image'].shape[1:]]
    command = [sys.executable, '-m', 'tests.deploy.lite_nets', json.dumps([str(folder), shape, onnx_format])]
    environment = {**os.environ, 'FLAGS_enable_pir_api': '0', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / 'int8' / 'net'


def calibrate(folder: Path, shape: tuple[int, ...], onnx_format: bool) -> None:
    """Quantize the model ``float/net`` in a folder into ``int8/net``."""
    from paddle.static.quantization import PostTrainingQuantization

    paddle.enable_static()
    with paddle.static.program_guard(paddle.static.Program()):
        image = paddle.static.data('image', [None, *shape], 'float32')
    loader = paddle.io.DataLoader(
        Samples(shape), feed_list=[image], return_list=False, batch_size=8, places=[paddle.CPUPlace()]
    )
    quantizer = PostTrainingQuantization(
        paddle.static.Executor(paddle.CPUPlace()),
        model_dir=str(folder / 'float'),
        model_filename='net.pdmodel',
        params_filename='net.pdiparams',
        data_loader=loader,
        batch_nums=2,
        algo='abs_max',
        quantizable_op_type=['conv2d', 'depthwise_conv2d', 'mul', 'matmul_v2'],
        onnx_format=onnx_format,
    )
    quantizer.quantize()
    quantizer.save_quantized_model(str(folder / 'int8'), model_filename='net.pdmodel', params_filename='net.pdiparams')


if __name__ == '__main__':
    place, sizes, linear = json.loads(sys.argv[1])
    calibrate(Path(place), tuple(sizes), linear)
