"""The flags of train.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks import TASKS, add_flags, boolean, positive


def parse_arguments(about: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    _add_training(parser.add_argument_group('training'))
    _add_pruning(parser.add_argument_group('pruning'))
    _add_files(parser.add_argument_group('files'))
    options = parser.parse_args(arguments)
    if options.num_epochs is None:
        options.num_epochs = TASKS[options.data].epochs
    try:
        _settle_phases(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def _add_training(group: Any) -> None:
    group.add_argument('--model', default='MobileNet', help='one of slim.models.MODELS (default: MobileNet)')
    group.add_argument('--scale', type=float, help='multiplier of its channels (default: 1)')
    group.add_argument('--lr', type=float, default=0.05, help='learning rate (default: 0.05)')
    group.add_argument(
        '--lr_strategy', choices=('piecewise_decay', 'cosine_decay', 'constant'), default='piecewise_decay'
    )
    group.add_argument(
        '--step_epochs', type=int, nargs='+', help='epochs at which piecewise_decay divides by ten (default: quarters)'
    )
    group.add_argument('--l2_decay', type=float, default=3e-5, help='default: 3e-5')
    group.add_argument('--momentum_rate', type=float, default=0.9, help='default: 0.9')
    group.add_argument('--num_epochs', type=positive, help='default: 40 for digits, 20 for mnist, 120 for imagenet')
    group.add_argument('--seed', type=int, default=0, help='of initial weights and the order of samples (default: 0)')
    group.add_argument('--log_period', type=positive, default=10, help='batches between two lines of log (default: 10)')
    group.add_argument('--test_period', type=positive, default=10, help='epochs between two evaluations (default: 10)')
    group.add_argument('--model_period', type=positive, default=10, help='epochs between two saves (default: 10)')
    group.add_argument('--is_distributed', type=boolean, nargs='?', const=True, default=False, help='one of many ranks')


def _add_pruning(group: Any) -> None:
    group.add_argument('--pruning_mode', choices=('ratio', 'threshold'), default='ratio')
    group.add_argument('--ratio', type=float, default=0.55, help='share of the weights to drop (default: 0.55)')
    group.add_argument('--threshold', type=float, default=0.01, help='magnitude below which all drop (default: 0.01)')
    group.add_argument('--pattern', help='N:M, such as 2:4, in place of a ratio')
    group.add_argument('--pruning_strategy', choices=('base', 'gmp'), default='base', help='gmp raises the ratio')
    group.add_argument('--local_sparsity', type=boolean, nargs='?', const=True, default=False, help='in each layer')
    group.add_argument('--prune_params_type', choices=('conv1x1_only',), help='default: all but normalization and bias')
    group.add_argument('--sparse_block', type=int, nargs=2, default=[1, 1], metavar=('M', 'N'), help='default: 1 1')
    group.add_argument(
        '--stable_epochs',
        type=int,
        help='epochs before pruning (default: a quarter where base drops a ratio of a network without pretrained '
        'weights, whose magnitudes say nothing at first; else 0)',
    )
    group.add_argument('--pruning_epochs', type=int, help='gmp: epochs in which the ratio rises (default: half)')
    group.add_argument('--tunning_epochs', type=int, help='gmp: epochs at the full ratio (default: what is left)')
    group.add_argument('--pruning_steps', type=positive, help='gmp: steps of the ratio (default: up to 100)')
    group.add_argument('--initial_ratio', type=float, default=0.15, help='gmp: ratio of the first step (default: 0.15)')


def _add_files(group: Any) -> None:
    group.add_argument('--pretrained_model', type=Path, help='inference model, or folder with a file per parameter')
    group.add_argument(
        '--model_path', type=Path, default=Path('models'), help='folder of the results (default: models)'
    )
    group.add_argument(
        '--checkpoint', type=Path, help="--model_path of the run to go on with; may be this run's own, if empty yet"
    )
    group.add_argument(
        '--last_epoch', type=int, default=-1, help='number, from 0, of the last epoch that the checkpoint has seen'
    )
    group.add_argument(
        '--lite_sparse', type=float, default=0.6, help='zeros from which a layer gets a sparse kernel (default: 0.6)'
    )
    group.add_argument('--lite_python', help='a Python with Paddle Lite (default: looked for)')


def _settle_phases(options: argparse.Namespace) -> None:
    """Fill in the epochs of the phases."""
    at_once = options.pruning_strategy == 'base'
    if options.stable_epochs is None:
        learns_first = at_once and options.pruning_mode == 'ratio' and options.pretrained_model is None
        options.stable_epochs = options.num_epochs // 4 if learns_first else 0
    if options.stable_epochs and options.pruning_mode == 'threshold':
        raise ValueError('--stable_epochs goes with a ratio: a threshold holds at every step')
    if at_once:
        return
    if options.pattern is not None:
        raise ValueError('--pattern goes with --pruning_strategy base: a pattern has one ratio')
    if options.pruning_epochs is None:
        options.pruning_epochs = max(1, (options.num_epochs - options.stable_epochs) // 2)
    if options.tunning_epochs is None:
        options.tunning_epochs = options.num_epochs - options.stable_epochs - options.pruning_epochs
    phases = (options.stable_epochs, options.pruning_epochs, options.tunning_epochs)
    if sum(phases) != options.num_epochs or options.tunning_epochs < 1:
        raise ValueError(
            f'gmp has phases of {", ".join(map(str, phases))} epochs (stable, pruning, tunning); together they have to '
            f'be --num_epochs {options.num_epochs}, and the full ratio holds from the third on'
        )
