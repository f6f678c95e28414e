"""How the programs of a job become the ones that it works on."""

from __future__ import annotations

from pathlib import Path

from paddleslim_ng.compress.programs import JobPrograms
from paddleslim_ng.core import clone_program
from paddleslim_ng.distributed import require_all_reduce
from paddleslim_ng.prune.prune_io import load_model

__all__ = ['prepare_programs']


def prepare_programs(programs: JobPrograms, epochs: int, init_model: str | Path | None) -> None:
    """Put copies in the place of the programs that were given, load the initial model, and put the optimizer in.

    Args:
        programs: of the job; changed in place, and the scope with them.
        epochs: number of epochs; without any, no optimizer is needed.
        init_model: folder of :func:`paddleslim_ng.prune.save_model`; the values of the scope where None.

    Raises:
        ConfigError: the model does not fit, or nothing is called as the loss.
        DistributedError: there are several ranks, and the training program does not average gradients.
    """
    train, evaluated = clone_program(programs.train_program), clone_program(programs.eval_program)
    if init_model is not None:
        for program in (train, evaluated):
            load_model(programs.executor, program, init_model, scope=programs.scope)
    programs.train_program, programs.eval_program = train, evaluated
    if epochs and not programs.is_trained() and programs.train_optimizer is not None:
        programs.minimize(train)
    if programs.ranks.size > 1 and programs.is_trained():
        require_all_reduce(train, ranks=programs.ranks)
