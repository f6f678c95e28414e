"""The arguments of ``paddleslim-ng`` and their help."""

from __future__ import annotations

import argparse

from paddleslim_ng.cli import (
    compress_arguments,
    config_arguments,
    launch_arguments,
    prune_arguments,
    quantize_arguments,
    sensitivity_arguments,
)
from paddleslim_ng.cli.shared_arguments import add_interpreter
from paddleslim_ng.version import __version__

__all__ = ['FORMATS', 'build_parser']

FORMATS = ('lite', 'pdmodel', 'json', 'onnx')

_ABOUT = """\
Look into Paddle inference models, convert, prune, quantize and compress them, prove the result and measure it; launch
training jobs.

A MODEL is named by its path without suffix (out/net for out/net.json and out/net.pdiparams), by its program file
(out/net.json, out/net.pdmodel), or by a folder that holds one model. Where the files have other names, give the folder,
--model-filename and --params-filename, as in Paddle.
"""
_CODES = """\
exit codes:
  0  done, and every check passed
  1  a check failed: the result computes something else than the model
  2  wrong arguments, or a configuration that is wrong
  3  a model or another input is missing, damaged, or does not fit
  4  the conversion, a runtime or a training job failed; the message says why and names operators without support
"""
_EXAMPLES = """\
examples, from a Paddle 3 model to a phone:
  paddleslim-ng inspect out/net.json
  paddleslim-ng convert out/net.json --to lite --target arm
  paddleslim-ng convert out/net.json --to lite --target x86 --output net_x86.nb
  paddleslim-ng verify net_x86.nb --reference out/net.json
  paddleslim-ng measure out/pruned.json --original out/net.json
  paddleslim-ng sensitivity out/net.json --data images.npy -o sensitivities.json
  paddleslim-ng prune out/net.json --sensitivities sensitivities.json --flops 0.5 -o pruned/net
  paddleslim-ng quantize out/net.json --data images.npy -o int8/net
  paddleslim-ng compress --config compress.yaml out/net.json --data images.npy -o small

`paddleslim-ng COMMAND --help` explains a command.

"""
_INSPECT = """\
Print what a model consists of: inputs and outputs, operators by type, parameters, multiply-accumulates, zeros and bits
of the weights, convolutions whose channels are no multiple of 8 (devices run these at a fraction of their speed), and
the operators that Paddle Lite lacks.

examples:
  paddleslim-ng inspect out/net.json
  paddleslim-ng inspect out/net --weights                   every weight, with its zeros and bits
  paddleslim-ng inspect old_model --model-filename model --params-filename params
  paddleslim-ng inspect out/net --json | python -m json.tool
"""
_CONVERT = """\
Write a model in another format. What was written is read back and, where this machine can run it, compared with the
model on made-up or given inputs; a result that computes something else is not kept (exit code 1).

formats:
  lite      one .nb file for Paddle Lite; for Arm its kernels are checked, not executed
  pdmodel   .pdmodel and .pdiparams, which Paddle 2 and Paddle Lite's converter read
  json      .json and .pdiparams, the format of Paddle 3
  onnx      one .onnx file, through paddle2onnx (`pip install 'paddleslim-ng[onnx]'`)

examples:
  paddleslim-ng convert out/net.json --to lite                        out/net.nb for Arm
  paddleslim-ng convert out/net --to lite --precision fp16 -o net_fp16.nb
  paddleslim-ng convert out/sparse --to lite --sparse 0.6             sparse 1x1 convolutions
  paddleslim-ng convert out/net.json --to pdmodel -o mobile/net
  paddleslim-ng convert out/net --to onnx --opset 15
"""
_VERIFY = """\
Run a file and the model that it came from on the same inputs, several times in fresh processes, and compare. Exit code
1 means that they differ. A file for another device, such as Arm, is only read: "structure verified, not executed".

examples:
  paddleslim-ng verify net_x86.nb --reference out/net.json
  paddleslim-ng verify out/pruned --reference out/net --tolerance 0.05 --feeds images.npz

--feeds is a file of numpy.savez with an array for each input of the model: numpy.savez('images.npz', image=images).
"""
_MEASURE = """\
Time models on every engine of this machine: Paddle Inference plain, with oneDNN, in bf16 and in int8, and Paddle Lite.
Every model has a process of its own on every engine, and they run turn by turn. A table, and a verdict in words that
knows of noise: "no faster: 0.98x, within the spread".

examples:
  paddleslim-ng measure out/pruned --original out/net
  paddleslim-ng measure out/pruned out/int8 --original out/net --threads 2
  paddleslim-ng measure out/net --engines onednn,lite_x86 --batch 8
  paddleslim-ng measure out/net --shape image=1,3,320,320
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog='paddleslim-ng',
        description=_ABOUT,
        epilog=_EXAMPLES + _CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'paddleslim-ng {__version__}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    _inspect(_command(commands, 'inspect', 'what a model consists of', _INSPECT))
    _convert(_command(commands, 'convert', 'write a model as .nb, .pdmodel, .json or .onnx', _CONVERT))
    _verify(_command(commands, 'verify', 'compare a file with the model that it came from', _VERIFY))
    _measure(_command(commands, 'measure', 'time models on every engine of this machine', _MEASURE))
    quantize = _command(commands, 'quantize', 'make a model of integers, without training', quantize_arguments.ABOUT)
    _model(quantize)
    quantize_arguments.add_arguments(quantize)
    _shapes(quantize)
    sensitivity = _command(
        commands, 'sensitivity', 'how much each layer can lose, on data', sensitivity_arguments.ABOUT
    )
    _model(sensitivity)
    sensitivity_arguments.add_arguments(sensitivity)
    _shapes(sensitivity)
    prune = _command(commands, 'prune', 'remove channels, and prove the result', prune_arguments.ABOUT)
    _model(prune)
    prune_arguments.add_arguments(prune)
    _shapes(prune)
    compress = _command(commands, 'compress', 'prune, distil and quantize in one job', compress_arguments.ABOUT)
    _model(compress, required=False)
    compress_arguments.add_arguments(compress)
    _shapes(compress)
    config_arguments.add_arguments(
        _command(commands, 'config', 'check configurations of the Compressor', config_arguments.ABOUT)
    )
    launch_arguments.add_arguments(
        _command(commands, 'launch', 'train on several processes, and go on after failures', launch_arguments.ABOUT)
    )
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, about: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=about,
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    general = parser.add_argument_group('output')
    general.add_argument('--json', action='store_true', help='print one JSON object on stdout; logs go to stderr')
    general.add_argument('--verbose', action='store_true', help='log what is being done')
    general.add_argument('--debug', action='store_true', help='show where an error arose')
    return parser


def _inspect(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument('--weights', action='store_true', help='list every weight, with shape, zeros and bits')
    parser.add_argument(
        '--target', default='arm', help='the device whose Paddle Lite is asked for operators (default: arm)'
    )
    _shapes(parser)
    add_interpreter(parser)


def _convert(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument('--to', required=True, choices=FORMATS, help='the format to write')
    parser.add_argument(
        '-o',
        '--output',
        metavar='PATH',
        help="file or, for json and pdmodel, path without suffix (default: the model's)",
    )
    parser.add_argument('--no-check', action='store_true', help='do not run and compare what was written')
    _feeds(parser, 'to compare on')
    lite = parser.add_argument_group('for --to lite')
    lite.add_argument('--target', help='arm (default), x86, opencl, metal, ...')
    lite.add_argument('--precision', help='fp32 (default), fp16, int8, int8_storage or int16_storage')
    lite.add_argument(
        '--sparse', type=float, metavar='SHARE', help='share of zeros from which a 1x1 convolution is sparse (arm)'
    )
    lite.add_argument('--opt', metavar='PATH', help="another converter: the opt that fits the device's library")
    add_interpreter(lite)
    onnx = parser.add_argument_group('for --to onnx')
    onnx.add_argument('--opset', type=int, metavar='N', help='version of the operator set (default: 13, or as needed)')


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('artifact', metavar='ARTIFACT', help='a .nb file, or a saved model')
    parser.add_argument('--reference', required=True, metavar='MODEL', help='the model that it came from')
    _filenames(parser, 'of the reference, where it is a folder')
    _feeds(parser, 'to run both on')
    parser.add_argument('--batch', type=int, default=2, metavar='N', help='size of the made-up inputs (default: 2)')
    _shapes(parser)
    parser.add_argument('--tolerance', type=float, metavar='X', help='largest relative difference allowed')
    parser.add_argument(
        '--predictors', type=int, default=3, metavar='N', help='fresh processes that must agree (default: 3)'
    )
    add_interpreter(parser)


def _measure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('models', nargs='+', metavar='MODEL', help='the models to time')
    parser.add_argument('--original', metavar='MODEL', help='what to compare them with')
    _filenames(parser, 'of every model, where they are folders')
    _feeds(parser, 'to run on')
    parser.add_argument('--batch', type=int, default=1, metavar='N', help='size of the made-up inputs (default: 1)')
    _shapes(parser)
    parser.add_argument('--engines', metavar='A,B', help='plain, onednn, bf16, int8, lite_x86, lite_arm (default: all)')
    parser.add_argument('--threads', type=int, default=1, metavar='N', help='threads of each engine (default: 1)')
    parser.add_argument('--repeats', type=int, default=50, metavar='N', help='counted runs (default: 50)')
    parser.add_argument('--warmup', type=int, default=5, metavar='N', help='runs before these (default: 5)')
    add_interpreter(parser)


def _model(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    named = 'path without suffix, program file, or folder'
    if required:
        parser.add_argument('model', metavar='MODEL', help=named)
    else:
        parser.add_argument('model', nargs='?', metavar='MODEL', help=f"{named} (default: the configuration's)")
    _filenames(parser, 'where MODEL is a folder')


def _filenames(parser: argparse.ArgumentParser, when: str) -> None:
    parser.add_argument('--model-filename', metavar='NAME', help=f'name of the program file, {when}')
    parser.add_argument('--params-filename', metavar='NAME', help=f'name of the file of parameters, {when}')


def _feeds(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument('--feeds', metavar='NPZ', help=f'arrays {purpose}, by the names of the inputs; else made up')


def _shapes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--shape',
        action='append',
        default=[],
        metavar='NAME=D,D,..',
        help='whole shape of a made-up input, where the model leaves more than the batch open; may be repeated',
    )
