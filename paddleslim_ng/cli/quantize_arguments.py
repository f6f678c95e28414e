"""The arguments of ``paddleslim-ng quantize`` and their help."""

from __future__ import annotations

import argparse

from paddleslim_ng.cli.shared_arguments import add_normalization, add_timing

__all__ = ['ABOUT', 'add_arguments']

ABOUT = """\
Make a model of integers from a float model and some of its data, without training. What was written is read back: its
weights must be integers of the width asked for, and it must compute what the quantization simulates.

--data is one of
  digits       the handwritten digits of scikit-learn, in the size that the model takes
  FILE.npy     an array [N, ...] for a model with one input
  FILE.npz     arrays by the names of the inputs, of numpy.savez
  FOLDER       images, resized and cropped as for evaluation, less --mean, divided by --std

--data-free calibrates on made-up noise: for a first look at size and speed, not for a model that is used.

--to lite also converts the result for the phone, and says which of its kernels compute with integers. --measure times
it beside the float model on every engine of this machine, on the first batch of the data, and ends with a verdict.

examples:
  paddleslim-ng quantize out/net.json --data images.npy -o int8/net
  paddleslim-ng quantize out/net --data photos --batches 16 --algo KL -o int8/net
  paddleslim-ng quantize out/net --data digits --weight-bits 4 --format decomposed -o four/net
  paddleslim-ng quantize out/net --data photos --to lite --measure -o int8/net
  paddleslim-ng convert int8/net --to lite --precision int8               the same for the phone, later
  paddleslim-ng measure int8/net --original out/net                       and what it brings here
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that the command does not share with others."""
    parser.add_argument('-o', '--output', required=True, metavar='PATH', help='path without suffix of the result')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--data', metavar='DATA', help='what to calibrate with; see above')
    source.add_argument('--data-free', action='store_true', help='calibrate on noise; the result is a rough guess')
    parser.add_argument('--batch-size', type=int, default=8, metavar='N', help='images in a batch (default: 8)')
    parser.add_argument('--batches', type=int, metavar='N', help='batches to read (default: at most 32)')
    add_normalization(parser)
    parser.add_argument(
        '--algo', default='hist', help='abs_max, avg, hist (default), KL, mse, emd, min_max or ptf: which range is kept'
    )
    parser.add_argument(
        '--percentile', type=float, default=0.9999, metavar='X', help='kept by --algo hist (default: 0.9999)'
    )
    parser.add_argument('--weight-bits', type=int, default=8, metavar='N', help='2 to 16 (default: 8)')
    parser.add_argument('--activation-bits', type=int, default=8, metavar='N', help='2 to 16 (default: 8)')
    parser.add_argument('--per-tensor', action='store_true', help='one scale for a weight, not one for each channel')
    parser.add_argument('--full', action='store_true', help='quantize operators without weights, too')
    parser.add_argument('--types', metavar='A,B', help='types of operators (default: all that have weights)')
    parser.add_argument(
        '--skip', action='append', default=[], metavar='TENSOR', help='leave what reads it in float; may be repeated'
    )
    parser.add_argument('--no-fold', action='store_true', help='do not fold batch norm into the weights')
    parser.add_argument(
        '--format',
        default='quantize_linear',
        help='quantize_linear (default) or fake_quantize for devices; decomposed for Paddle itself, up to 16 bits',
    )
    proof = parser.add_argument_group('what to do with the result')
    proof.add_argument('--to', choices=['lite'], help='convert it as well, to PATH.nb')
    proof.add_argument('--target', help='device for --to lite: arm (default), x86, ...')
    proof.add_argument('--measure', action='store_true', help='time it beside the float model here')
    add_timing(proof)
