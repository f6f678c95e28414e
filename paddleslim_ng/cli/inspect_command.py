"""``paddleslim-ng inspect``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleslim_ng.cli.model_argument import load_model, read_shapes
from paddleslim_ng.cli.program import Outcome
from paddleslim_ng.errors import DeployError, GraphError

if TYPE_CHECKING:
    from paddleslim_ng.analysis.inspection import Inspection
    from paddleslim_ng.runtime import InferenceModel

__all__ = ['run']


def run(arguments: argparse.Namespace) -> Outcome:
    """Look into a model."""
    from paddleslim_ng.analysis.inspection import inspect_model
    from paddleslim_ng.deploy.lite_options import check_options

    check_options(arguments.target, 'fp32', None)
    shapes = read_shapes(arguments.shape)
    model = load_model(arguments.model, arguments)
    found = inspect_model(*model, input_shapes=shapes or None)
    lacking, obstacle = _lacking(model, arguments)
    lite = {'target': arguments.target, 'lacking': lacking, 'obstacle': obstacle}
    return Outcome(_text(found, lite, arguments.weights), {'model': arguments.model, **found.as_dict(), 'lite': lite})


def _lacking(model: InferenceModel, arguments: argparse.Namespace) -> tuple[list[str] | None, str]:
    """Return the operators that Paddle Lite lacks, or None and why that is not known."""
    from paddleslim_ng.deploy.lite_support import lacking_operators
    from paddleslim_ng.deploy.model_source import saved_files

    try:
        with tempfile.TemporaryDirectory() as folder:
            files = saved_files(model, Path(folder, 'source')).as_pdmodel(Path(folder, 'pdmodel'))
            program = files.load().program
        return lacking_operators(program, arguments.target, interpreter=arguments.interpreter), ''
    except (DeployError, GraphError) as error:
        return None, ' '.join(str(error).split())


def _text(found: Inspection, lite: dict[str, Any], weights: bool) -> str:
    lines = [f'program: {found.ir}']
    lines += [f'input: {name} {dtype} {_shape(shape)}' for name, (dtype, shape) in found.inputs.items()]
    lines += [f'output: {name} {_shape(shape)}' for name, shape in found.outputs.items()]
    lines.append(f'operators: {sum(found.operators.values())}')
    lines += [f'  {count:5d} {name}' for name, count in found.operators.items()]
    lines.append(f'parameters: {found.parameters:,} in {found.parameter_bytes / 1e6:.2f} MB')
    macs = f'{found.macs:,}' if found.macs is not None else f'unknown: {found.macs_obstacle}'
    lines.append(f'multiply-accumulates of one sample: {macs}')
    lines.append(f'zeros in the weights: {found.sparsity:.1%}')
    bits = sorted({weight.bits for weight in found.weights})
    lines.append(f'bits of the weights: {", ".join(map(str, bits)) or "no weights"}')
    quantized = ', '.join(f'{count} of {bits} bits' for bits, count in found.quantization.items())
    lines.append(f'quantization operators: {quantized or "none"}')
    odd = ', '.join(f'{name} {channels}' for name, channels in found.odd_channels.items())
    lines.append(f'channels that are no multiple of 8: {odd or "none"}')
    lacking = ', '.join(lite['lacking'] or ()) or 'nothing'
    answer = f'unknown: {lite["obstacle"]}' if lite['obstacle'] else lacking
    lines.append(f'Paddle Lite on {lite["target"]} lacks: {answer}')
    if weights:
        lines.append('weights: name, shape, zeros, bits')
        lines += [f'  {w.name}  {_shape(w.shape)}  {w.zeros:.1%}  {w.bits}' for w in found.weights]
    return '\n'.join(lines)


def _shape(shape: tuple[int, ...]) -> str:
    return '[' + ', '.join('?' if size < 0 else str(size) for size in shape) + ']'
