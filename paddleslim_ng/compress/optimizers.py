"""Optimizers that a job can make more than once, because strategies rebuild training programs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Union

import paddle

from paddleslim_ng.core import Executor, GraphWrapper, is_pir_program
from paddleslim_ng.core.cloning import lookup
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.distributed import Ranks, distribute
from paddleslim_ng.distributed.synchronize import unreduced_parameters
from paddleslim_ng.errors import ConfigError, GraphError, UnsupportedOpError

__all__ = ['OptimizerLike', 'OptimizerSource', 'attach_optimizer', 'is_trained', 'optimizer_source']

OptimizerLike = Union[Callable[[], Any], Any]


class OptimizerSource:
    """Gives a fresh optimizer whenever a training program is built.

    A factory is called each time. An object is copied each time, as it was when it was given: momenta and the schedule
    of its learning rate begin anew with every rebuild, and the object itself never changes.

    Args:
        given: a function without arguments, or a class, that makes an optimizer of Paddle; or such an optimizer, not
            yet used.
        role: how errors name it, such as ``'train_optimizer'``.
        clip: a clip of gradients for optimizers that have none of their own.
        amp: options of ``paddle.static.amp.decorate``, for mixed precision; see :func:`attach_optimizer`.

    Raises:
        ConfigError: it is neither, or an optimizer that has minimized already; or ``clip`` is no clip.
    """

    def __init__(
        self, given: OptimizerLike, role: str, *, clip: Any = None, amp: Mapping[str, Any] | None = None
    ) -> None:
        self.role, self.clip = role, clip
        self.amp = dict(amp) if amp is not None else None
        self._factory: Callable[[], Any]
        if clip is not None and not callable(clip):
            raise ConfigError(f'clip is one of paddle.nn.ClipGradByGlobalNorm and the like, not {clip!r}')
        if hasattr(given, 'minimize') and not isinstance(given, type):
            if getattr(given, '_accumulators', None) or getattr(given, '_learning_rate_map', None):
                raise ConfigError(
                    f'{role} has minimized a program already and carries its state: give a function that makes one'
                )
            pristine = copy.deepcopy(given)
            self._factory = lambda: copy.deepcopy(pristine)
        elif callable(given):
            self._factory = given
        else:
            raise ConfigError(f'{role} is an optimizer, or a function that makes one, not {type(given).__name__}')

    def make(self) -> Any:
        """Return an optimizer that nothing else uses.

        Raises:
            ConfigError: the factory returns something else, or an optimizer that is in use.
        """
        made = self._factory()
        if not hasattr(made, 'minimize'):
            raise ConfigError(f'{self.role}() returned a {type(made).__name__}, which has no minimize()')
        if getattr(made, '_accumulators', None) or getattr(made, '_learning_rate_map', None):
            raise ConfigError(
                f'{self.role}() returned an optimizer that has minimized before: make a new one each time'
            )
        if self.clip is not None and getattr(made, '_grad_clip', None) is None:
            made._grad_clip = self.clip
        return made


def optimizer_source(
    given: OptimizerLike | None, role: str, clip: Any, amp: Mapping[str, Any] | None
) -> OptimizerSource | None:
    """Return the source of an optimizer that may not be given."""
    return OptimizerSource(given, role, clip=clip, amp=amp) if given is not None else None


def is_trained(program: Any) -> bool:
    """Tell whether a program updates parameters."""
    return any(op.is_opt_op() for op in GraphWrapper(program).ops())


def attach_optimizer(
    program: Any, loss: str, source: OptimizerSource, executor: Executor, scope: Any, prefix: str, ranks: Ranks
) -> None:
    """Let a program train: backward pass and updates, in place, and the optimizer's state in the scope.

    The parameters in the scope are left as they are. On several ranks, gradients are averaged over them.

    Args:
        program: a program without optimizer.
        loss: name of the variable to minimize.
        source: gives the optimizer.
        executor: initializes its state.
        scope: gets it.
        prefix: in front of the names of that state, so that they are the same in every run of a job.
        ranks: the job.

    Raises:
        ConfigError: the variable is more than one number.
        GraphError: the program trains already, or has no such variable.
        UnsupportedOpError: Paddle cannot build this optimizer, clip or mixed precision on the program's IR.
    """
    if is_trained(program):
        raise GraphError('the program has an optimizer already: take core.cloning.forward_program of it first')
    startup = paddle.static.Program()
    with matching_ir(program):
        optimizer = source.make()
    with matching_ir(program), paddle.static.program_guard(program, startup), paddle.utils.unique_name.guard(prefix):
        target = lookup(program, loss)
        if any(size != 1 for size in GraphWrapper(program).var(loss).shape()):
            raise ConfigError(f'{loss!r} has the shape {list(target.shape)}: minimize one number, such as its mean')
        try:
            if source.amp is not None:
                optimizer = _mixed(optimizer, source.amp, program)
            optimizer.minimize(target, startup_program=startup)
        except (TypeError, NotImplementedError, AttributeError, ValueError) as error:
            raise UnsupportedOpError(
                f'Paddle {paddle.__version__} cannot build {source.role} ({type(optimizer).__name__}'
                f'{f" with {type(source.clip).__name__}" if source.clip is not None else ""}) for a '
                f'{"PIR" if is_pir_program(program) else "legacy"} program: {type(error).__name__}: {error}'
            ) from error
    if source.amp is not None and not any(op.type() == 'cast' for op in GraphWrapper(program).ops()):
        raise UnsupportedOpError(
            f'mixed precision changes nothing on {executor.place}: Paddle {paddle.__version__} has no half-precision '
            'kernels there for any operator of the network; leave amp out'
        )
    if ranks.size > 1 and unreduced_parameters(program):
        distribute(program, ranks=ranks)
    executor.run(startup, scope=scope)


def _mixed(optimizer: Any, options: Mapping[str, Any], program: Any) -> Any:
    """Decorate an optimizer for mixed precision.

    Raises:
        UnsupportedOpError: on PIR, where Paddle casts while a network is built and not afterwards.
    """
    if is_pir_program(program):
        raise UnsupportedOpError(
            'mixed precision cannot be put into a PIR program that exists: build the network within '
            "paddle.amp.auto_cast, on CPUs with dtype='bfloat16', and leave amp out here"
        )
    return paddle.static.amp.decorate(optimizer, **options)
