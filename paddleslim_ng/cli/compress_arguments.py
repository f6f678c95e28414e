"""The arguments of ``paddleslim-ng compress`` and their help."""

from __future__ import annotations

import argparse

from paddleslim_ng.cli.shared_arguments import add_normalization, add_timing

__all__ = ['ABOUT', 'LOSSES', 'add_arguments']

LOSSES = ('l2', 'soft_label')
ABOUT = """\
Compress a model by the strategies of a configuration: prune, sparsify, distil, quantize, in one training job. No
training script is needed, and no labels: the model as it is teaches the compressed one. Ends with a table of what every
file computes, an HTML report, and a verdict on the times on this machine.

MODEL may be left out where the configuration names it (Global: model_dir).

--data is what is learned from, and one of
  digits       the handwritten digits of scikit-learn, in the size of the model: their training part is learned from,
               their validation part with its labels measures
  FILE.npy     an array [N, ...] for a model with one input
  FILE.npz     arrays by the names of the inputs, of numpy.savez
  FOLDER       images, resized and cropped as for evaluation

Models are measured on --eval-data, of the same kinds; where it is missing, on every tenth sample of --data, which is
then not learned from. `agreement` is 1 less the relative distance of the outputs from those of the model as it is.
With labels, `top1` is measured, too, the share of samples whose label has the largest score in the first output, and
what the configuration decides by is `top1`, by whatever name (`monitor`, `metric_name`); else it is `agreement`.

Everything is written below -o: model (float), int8 (where a strategy quantizes), report.html, what else the
configuration names, and checkpoints. After an interruption, the same command goes on from these.

examples:
  paddleslim-ng compress --config compress.yaml out/net --data images.npy -o small
  paddleslim-ng compress --config compress.yaml out/net --data train.npy --eval-data test.npy --labels y.npy -o small
  paddleslim-ng compress --config compress.yaml out/net --data photos --labels list.txt --loss soft_label -o small
  paddleslim-ng compress --config act.yaml --data digits --no-measure --json -o small
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that the command does not share with others."""
    parser.add_argument('--config', required=True, metavar='FILE', help='what to do; see `paddleslim-ng config check`')
    parser.add_argument('-o', '--output', required=True, metavar='FOLDER', help='folder of the results')
    data = parser.add_argument_group('data')
    data.add_argument('--data', required=True, metavar='DATA', help='what is learned from; see above')
    data.add_argument('--eval-data', metavar='DATA', help='what models are measured on (default: a tenth of --data)')
    data.add_argument(
        '--labels', metavar='FILE', help='labels of what is measured: LABELS.npy for arrays, LIST.txt for a folder'
    )
    data.add_argument(
        '--batch-size',
        type=int,
        default=32,
        metavar='N',
        help='samples in a batch (default: 32); what fills none is left to other epochs',
    )
    data.add_argument('--batches', type=int, metavar='N', help='batches to measure on (default: all)')
    add_normalization(data)
    learning = parser.add_argument_group('learning')
    learning.add_argument(
        '--loss',
        choices=LOSSES,
        default='l2',
        help="distance from the model as it is: of the last layer's results (l2, default), or of their softmax",
    )
    learning.add_argument('--seed', type=int, default=0, metavar='N', help='of the order of --data (default: 0)')
    result = parser.add_argument_group('what to do with the result')
    result.add_argument(
        '--measure', action=argparse.BooleanOptionalAction, default=True, help='time it here, with a verdict (default)'
    )
    result.add_argument('--engines', metavar='A,B', help='for --measure: plain, onednn, bf16, int8, ... (default: all)')
    add_timing(result)
