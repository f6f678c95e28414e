"""How the programs of a job become the ones that it works on."""

from __future__ import annotations

from pathlib import Path

from paddleslim_ng.compress.programs import JobPrograms
from paddleslim_ng.core import GraphWrapper, clone_program, has_array
from paddleslim_ng.distributed import require_all_reduce
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune.prune_io import load_model

__all__ = ['prepare_programs', 'require_parameters']


def prepare_programs(programs: JobPrograms, epochs: int, init_model: str | Path | None) -> None:
    """Put copies in the place of the programs that were given, load the initial model, and put the optimizer in.

    Args:
        programs: of the job; changed in place, and the scope with them.
        epochs: number of epochs; without any, no optimizer is needed.
        init_model: folder of :func:`paddleslim_ng.prune.save_model`; the values of the scope where None.

    Raises:
        ConfigError: the model does not fit, nothing is called as the loss, or nothing is left for ``clip`` and ``amp``.
        DistributedError: there are several ranks, and the training program does not average gradients.
    """
    given = [name for name in ('clip', 'amp') if getattr(programs, name) is not None]
    if epochs and given and programs.distiller_optimizer is None:
        raise ConfigError(
            f'{" and ".join(given)} would change nothing: the job makes no optimizer, because train_program comes with '
            'its own; give train_optimizer, and a program that nothing has minimized'
        )
    train, evaluated = clone_program(programs.train_program), clone_program(programs.eval_program)
    if init_model is not None:
        for program in (train, evaluated):
            load_model(programs.executor, program, init_model, scope=programs.scope)
    programs.train_program, programs.eval_program = train, evaluated
    if epochs and not programs.is_trained() and programs.train_optimizer is not None:
        programs.minimize(train)
    if programs.ranks.size > 1 and programs.is_trained():
        require_all_reduce(train, ranks=programs.ranks)


def require_parameters(programs: JobPrograms) -> None:
    """Raise ConfigError where the scope lacks values of parameters."""
    names = {
        var.name(): None
        for program in (programs.train_program, programs.eval_program)
        for var in GraphWrapper(program).all_parameters()
    }
    missing = [name for name in names if not has_array(programs.scope, name)]
    if missing:
        raise ConfigError(
            f'the scope has no values of {len(missing)} of {len(names)} parameters, such as {missing[0]!r}: run the '
            'startup program in it, or load the parameters, and give that scope'
        )
