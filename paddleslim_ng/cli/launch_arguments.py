"""The arguments of ``paddleslim-ng launch`` and their help."""

from __future__ import annotations

import argparse

__all__ = ['ABOUT', 'add_arguments']

ABOUT = """\
Train on several processes, of one machine or several, and go on after failures. Wraps paddle.distributed.launch: a rank
that dies or freezes ends the attempt, whatever is left of it is ended, and the job is launched again. The script is an
ordinary one for Paddle's launcher that restores its newest checkpoint when it starts (slim.distributed.Checkpoints).

Ranks show that they live by a heartbeat, which needs nothing of the script. One that is stopped and has not beaten for
the deadline counts as frozen; one that is not stopped has five times as long, for Python stands still while ranks wait
for each other at the start.

examples:
  paddleslim-ng launch --nproc 2 train.py --batch_size 64
  paddleslim-ng launch --nproc 4 --max-restarts 10 --deadline 30 --log-dir out/log train.py
  paddleslim-ng launch --master 10.0.0.1:8811 --nnodes 2 --rank 0 --nproc 2 train.py     on the first machine
  paddleslim-ng launch --master 10.0.0.1:8811 --nnodes 2 --rank 1 --nproc 2 train.py     on the second
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('--nproc', type=int, default=1, metavar='N', help='ranks on this machine (default: 1)')
    parser.add_argument(
        '--max-restarts', type=int, default=3, metavar='N', help='how often to launch again (default: 3)'
    )
    parser.add_argument(
        '--deadline', type=float, default=60.0, metavar='SECONDS', help='longest silence of a rank (default: 60)'
    )
    parser.add_argument('--log-dir', default='log', metavar='PATH', help="for the ranks' output (default: log)")
    several = parser.add_argument_group('several machines')
    several.add_argument('--master', metavar='HOST:PORT', help='the first machine, with a free port')
    several.add_argument('--nnodes', type=int, default=1, metavar='N', help='number of machines (default: 1)')
    several.add_argument('--rank', type=int, metavar='N', help='number of this machine, from 0')
    several.add_argument('--job-id', default='default', metavar='NAME', help='the same on all machines')
    parser.add_argument('script', metavar='SCRIPT', help='the training script')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='...', help='its arguments')
