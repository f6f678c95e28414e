"""``paddleslim-ng launch``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from paddleslim_ng.cli.program import Outcome

__all__ = ['run']


def run(arguments: argparse.Namespace) -> Outcome:
    """Launch a training job and see it through."""
    from paddleslim_ng.distributed.supervisor import Job, supervise

    job = Job(
        arguments.script,
        arguments.arguments,
        nproc=arguments.nproc,
        max_restarts=arguments.max_restarts,
        deadline=arguments.deadline,
        master=arguments.master,
        nnodes=arguments.nnodes,
        node=arguments.rank,
        job_id=arguments.job_id,
        log_dir=arguments.log_dir,
    )
    with _terminated_as_interrupted():
        found = supervise(job, output=sys.stderr if arguments.json else None)
    again = f' after {found.restarts} restarts ({"; ".join(found.failures)})' if found.restarts else ''
    return Outcome(f'{arguments.script} finished{again}, in {found.seconds:.0f} s', asdict(found))


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that no rank is left behind."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
