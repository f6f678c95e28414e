"""``paddleslim-ng convert``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paddleslim_ng.cli.model_argument import find_files, load_model, read_arrays
from paddleslim_ng.cli.program import Outcome
from paddleslim_ng.errors import ConfigError

__all__ = ['run']

_OWN_OPTIONS = {'lite': ('target', 'precision', 'sparse', 'opt', 'interpreter'), 'onnx': ('opset',)}
Arrays = dict[str, Any]


def run(arguments: argparse.Namespace) -> Outcome:
    """Write a model in another format."""
    for format, names in _OWN_OPTIONS.items():
        given = [f'--{name}' for name in names if getattr(arguments, name) is not None]
        if given and format != arguments.to:
            raise ConfigError(f'{", ".join(given)} belongs to --to {format}, not to --to {arguments.to}')
    arrays = read_arrays(arguments.feeds)
    target = Path(arguments.output) if arguments.output else _beside(arguments)
    return _CONVERSIONS[arguments.to](target, arrays, arguments)


def _beside(arguments: argparse.Namespace) -> Path:
    """Return where the result goes by default: beside the model, under its name."""
    from paddleslim_ng.runtime.model_files import prefix_of

    named = arguments.model_filename
    return Path(arguments.model, Path(named).stem) if named else prefix_of(arguments.model)


def _lite(target: Path, arrays: Arrays | None, arguments: argparse.Namespace) -> Outcome:
    from paddleslim_ng.deploy import to_lite

    found = to_lite(
        find_files(arguments.model, arguments),
        target,
        arguments.target or 'arm',
        arguments.precision or 'fp32',
        arguments.sparse,
        interpreter=arguments.interpreter,
        opt=arguments.opt,
        check=not arguments.no_check,
        feed=arrays,
    )
    data = {
        'file': found.file,
        'bytes': found.file_bytes,
        'target': found.target,
        'precision': found.precision,
        'opt_version': found.opt_version,
        'kernels': found.nb.counts(),
        'legalized': dict(found.changes),
        'warnings': found.warnings,
        'verification': None if found.verification is None else asdict(found.verification),
    }
    return Outcome(found.report, data)


def _paddle(target: Path, arrays: Arrays | None, arguments: argparse.Namespace) -> Outcome:
    from paddleslim_ng.runtime import save_inference_model

    prefix = target.with_suffix('') if target.suffix in ('.json', '.pdmodel') else target
    check = not arguments.no_check
    model = load_model(arguments.model, arguments)
    saved = save_inference_model(
        model.program, prefix, model.feeds, model.fetches, model.scope, format=arguments.to, check=check, feed=arrays
    )
    text = f'{saved.program_file}\n{saved.parameter_file}\n{saved.file_bytes} bytes'
    if saved.difference is not None:
        text += f', outputs differ by {saved.difference:.3g} ({saved.relative_difference:.3g} of their scale)'
    return Outcome(text, {**asdict(saved), 'bytes': saved.file_bytes})


def _onnx(target: Path, arrays: Arrays | None, arguments: argparse.Namespace) -> Outcome:
    from paddleslim_ng.deploy import to_onnx

    files = find_files(arguments.model, arguments)
    found = to_onnx(files, target, opset=arguments.opset, feeds=arrays, check=not arguments.no_check)
    lines = [f'{found.file}, {found.file_bytes} bytes, opset {found.opset}, by paddle2onnx {found.converter}']
    lines += [f'inputs {item.shapes}: {item.figures}' for item in found.parity]
    return Outcome('\n'.join(lines), {**asdict(found), 'bytes': found.file_bytes})


_CONVERSIONS: dict[str, Callable[[Path, Arrays | None, argparse.Namespace], Outcome]] = {
    'lite': _lite,
    'pdmodel': _paddle,
    'json': _paddle,
    'onnx': _onnx,
}
