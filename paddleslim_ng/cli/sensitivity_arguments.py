"""The arguments of ``paddleslim-ng sensitivity`` and their help."""

from __future__ import annotations

import argparse

from paddleslim_ng.cli.evaluation_argument import ABOUT_DATA, add_data_arguments
from paddleslim_ng.cli.shared_arguments import numbers

__all__ = ['ABOUT', 'add_arguments']

ABOUT = f"""\
Measure how much a metric of a model suffers when channels of single parameters leave; `paddleslim-ng prune` then prunes
by it. The file of results is rewritten after every evaluation: an interrupted run goes on where it stopped, and a run
with other parameters or ratios adds to it. It belongs to one model, its weights, data and criterion; anything else is
refused.

{ABOUT_DATA}
Of parameters that always lose the same channels, such as those of layers whose results are added, the first is
measured.

examples:
  paddleslim-ng sensitivity out/net.json --data images.npy -o sensitivities.json
  paddleslim-ng sensitivity out/net --data photos --labels val_list.txt --batches 20 -o sensitivities.json
  paddleslim-ng sensitivity out/net --data digits --params 'conv.*' --ratios 0.25,0.5 -o s.json --plot s.png
  paddleslim-ng sensitivity out/net --data digits --ratios 0.75 -o b.json --merge s.json --plot both.png
"""
_RATIOS = '0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that the command does not share with others."""
    parser.add_argument('-o', '--output', required=True, metavar='FILE', help='the file of results, JSON')
    add_data_arguments(parser, required=True)
    parser.add_argument(
        '--params', type=_texts, metavar='A,B', help='regular expressions of whole names (default: all that can lose)'
    )
    parser.add_argument(
        '--ratios', type=numbers, default=_RATIOS, metavar='R,S', help='shares of the channels (default: 0.1 to 0.9)'
    )
    parser.add_argument(
        '--criterion',
        default='l1_norm',
        help='which channels leave: l1_norm (default), l2_norm, l0_norm, geometry_median, bn_scale or random',
    )
    shown = parser.add_argument_group('what is shown')
    shown.add_argument(
        '--merge',
        action='append',
        default=[],
        metavar='FILE',
        help='show results of other runs as well; may be repeated',
    )
    shown.add_argument('--plot', metavar='FILE', help='draw the curves: .png, .svg, .pdf')
    shown.add_argument('--loss', type=float, metavar='L', help='also list the ratios at which a layer loses so much')


def _texts(text: str) -> list[str]:
    return [part for part in text.split(',') if part]
