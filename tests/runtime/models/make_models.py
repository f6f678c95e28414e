"""Make the models of this folder with Paddle's own functions.

``python make_models.py NAME``, once for each Paddle and IR.
``NAME.npy`` holds what that Paddle computes for :func:`image`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle

FOLDER = Path(__file__).parent


def image() -> Any:
    """Return the input, three images."""
    return (np.arange(3 * 64).reshape(3, 1, 8, 8) % 7 / 7).astype('float32')


def network(x: Any) -> Any:
    """Return probabilities of three classes, through layers that the formats spell differently."""
    y = paddle.nn.functional.relu(paddle.nn.BatchNorm2D(4)(paddle.nn.Conv2D(1, 4, 3)(x)))
    first, second = paddle.split(paddle.nn.functional.dropout(y, 0.5), 2, 1)
    y = paddle.nn.functional.adaptive_avg_pool2d(paddle.concat([second, first + 0.5], 1), 2)
    return paddle.nn.functional.softmax(paddle.nn.Linear(16, 3)(paddle.flatten(y, 1)))


def forget_the_call_stack(path: Path) -> None:
    """Take out where on the maker's disk each operator was made."""
    program = paddle.static.deserialize_program(path.read_bytes())
    for op in program.global_block().ops:
        op.desc.remove_attr('op_callstack')
    path.write_bytes(program.desc.serialize_to_string())


def main(name: str) -> None:
    """Write the files of one model."""
    paddle.enable_static()
    program, startup = paddle.static.Program(), paddle.static.Program()
    program.random_seed = startup.random_seed = 7
    with paddle.static.program_guard(program, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('image', [None, 1, 8, 8])
        out = network(x)
    exe = paddle.static.Executor(paddle.CPUPlace())
    exe.run(startup)
    paddle.static.save_inference_model(str(FOLDER / name), [x], [out], exe, program=program)
    legacy = FOLDER / f'{name}.pdmodel'
    if legacy.exists():
        forget_the_call_stack(legacy)
    loaded, _, fetches = paddle.static.load_inference_model(str(FOLDER / name), exe)
    np.save(FOLDER / f'{name}.npy', exe.run(loaded, {'image': image()}, fetches)[0])


if __name__ == '__main__':
    main(sys.argv[1])
