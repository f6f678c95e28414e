"""The arguments of ``paddleslim-ng prune`` and their help."""

from __future__ import annotations

import argparse

from paddleslim_ng.cli.evaluation_argument import ABOUT_DATA, add_data_arguments
from paddleslim_ng.cli.shared_arguments import add_timing, numbers

__all__ = ['ABOUT', 'add_arguments']

ABOUT = f"""\
Remove channels of a model, and whatever depends on them. Before anything is written, the result must compute what the
model computes with the same channels set to zero; otherwise the exit code is 1. A table and an HTML report say what
came of it. Accuracy is usually lost: train the result further.

How much leaves is given in one of these ways:
  --ratio R                             the same share of the channels of every layer
  --params A,B --ratios R,S             these shares for these parameters
  --sensitivities FILE --loss L         what each layer can lose alone at a relative loss L of the metric
  --sensitivities FILE --flops F        a share F of the FLOPs, at one and the same loss of every layer
  --flops F                             a share F of the FLOPs, with the same share of the channels of every layer
FILE is one of `paddleslim-ng sensitivity`; where it is given several times, the files are joined.

{ABOUT_DATA}
examples:
  paddleslim-ng prune out/net.json --flops 0.5 -o pruned/net
  paddleslim-ng prune out/net --ratio 0.25 --params 'conv.*' --criterion l2_norm -o pruned/net
  paddleslim-ng prune out/net --params conv1_weights,conv2_weights --ratios 0.5,0.25 -o pruned/net
  paddleslim-ng prune out/net --sensitivities s.json --loss 0.01 --data digits -o pruned/net
  paddleslim-ng prune out/net --sensitivities s.json --flops 0.5 --measure -o pruned/net
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that the command does not share with others."""
    parser.add_argument('-o', '--output', required=True, metavar='PATH', help='path without suffix of the result')
    amount = parser.add_argument_group('how much leaves')
    given = amount.add_mutually_exclusive_group(required=True)
    given.add_argument('--ratio', type=float, metavar='R', help='share of the channels of every layer')
    given.add_argument('--ratios', type=numbers, metavar='R,S', help='shares, one for each entry of --params')
    given.add_argument('--loss', type=float, metavar='L', help='relative loss that each layer may cost alone')
    given.add_argument('--flops', type=float, metavar='F', help='share of the FLOPs that is to leave')
    amount.add_argument(
        '--params', type=_texts, metavar='A,B', help='regular expressions of whole names (default: all that can lose)'
    )
    amount.add_argument(
        '--sensitivities', action='append', default=[], metavar='FILE', help='measured losses; may be repeated'
    )
    amount.add_argument(
        '--max-ratio', type=float, default=0.9, metavar='R', help='most that a layer loses for --flops (default: 0.9)'
    )
    amount.add_argument(
        '--round-to', type=int, default=8, metavar='N', help='channels that stay are multiples of this (default: 8)'
    )
    amount.add_argument(
        '--criterion',
        default='l1_norm',
        help='which channels leave: l1_norm (default), l2_norm, l0_norm, geometry_median, bn_scale or random',
    )
    add_data_arguments(parser.add_argument_group('the metric before and after'), required=False)
    proof = parser.add_argument_group('what to do with the result')
    proof.add_argument('--format', choices=['json', 'pdmodel'], help="of the result (default: the model's)")
    proof.add_argument('--report', metavar='FILE', help='the HTML report (default: PATH.html)')
    proof.add_argument('--measure', action='store_true', help='time it beside the model here, with a verdict')
    add_timing(proof)


def _texts(text: str) -> list[str]:
    return [part for part in text.split(',') if part]
