"""A small saved model and data for it, for the tests of commands that prune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
from PIL import Image

from paddleslim_ng.cli import main
from paddleslim_ng.models import layers
from tests.deploy import lite_nets as nets

__all__ = ['call', 'make_models']


def _body(image: Any) -> Any:
    y = layers.conv_bn(image, 16, 3, name='first', act='relu')
    y = layers.conv_bn(y, 16, 3, name='second', act='relu')
    return paddle.nn.Linear(16 * 64, 10)(paddle.flatten(y, 1))


def make_models(folder: Path) -> Path:
    """Write the models ``grey`` and ``rgb`` in the format of the present IR, ``images.npy`` and ``photos``."""
    paddle.enable_static()
    nets.save(nets.build(_body, (1, 8, 8), 0), folder / 'grey')
    nets.save(nets.build(_body, (3, 8, 8), 1), folder / 'rgb')
    rng = np.random.default_rng(0)
    np.save(folder / 'images.npy', rng.standard_normal((20, 3, 8, 8)).astype('float32'))
    (folder / 'photos').mkdir()
    for number in range(6):
        pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / 'photos' / f'{number}.png')
    return folder


def call(capsys: Any, command: str, *arguments: object) -> tuple[int, str, str]:
    """Run a command; return its exit code, what it printed, and its errors."""
    code = main([command, *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
