"""Weights of a network that was trained before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
from tasks import MODEL

import paddleslim_ng as slim
from paddleslim_ng.core import has_array, shape_of, store_array, view_array
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.runtime.parameter_file import read_separate


def load_weights(path: Path, program: Any, place: Any) -> str:
    """Take over what a pretrained network has under the same names and in the same shapes, and say what that was.

    Args:
        path: an inference model, a folder of train.py, or a folder with a file per parameter.
        program: the network; its parameters are in the global scope.
        place: their device.
    """
    scope, own = paddle.static.global_scope(), _parameters(program)
    found = _read(path, own)
    fitting = [name for name in own if name in found and found[name].shape == shape_of(scope, name)]
    if not fitting:
        raise ConfigError(f'{path} has no parameter that fits the network; it has {list(found)[:3]}, ...')
    for name in fitting:
        store_array(scope, name, found[name], place)
    left = [name for name in own if name not in fitting]
    return f'{len(fitting)} pretrained parameters' + (f'; missing or of other shapes: {left}' if left else '')


def _read(path: Path, names: list[str]) -> dict[str, Any]:
    if path.is_dir() and all((path / name).is_file() for name in names):
        return read_separate(path, names)
    scope = paddle.static.Scope()
    model = slim.runtime.load_inference_model(path / MODEL if path.is_dir() else path, scope)
    return {name: view_array(scope, name) for name in _parameters(model.program) if has_array(scope, name)}


def _parameters(program: Any) -> list[str]:
    return [var.name() for var in slim.GraphWrapper(program).all_parameters()]
