"""Batch norm that uses and keeps its moving statistics from some training step on (PocketFlow's ``freeze_bn_delay``).

Late in quantization-aware training the statistics of a batch, which differ from batch to batch, shake the ranges of
what is quantized; frozen, batch norm is the fixed affine function that it will be on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

from paddleslim_ng.core import GraphWrapper, OpWrapper
from paddleslim_ng.errors import CheckpointError, ConfigError, GraphError, UnsupportedOpError

__all__ = ['BatchNormFreezing', 'freeze_batch_norm']

_logger = logging.getLogger(__name__)
_FORWARD: Final = 'batch_norm'
_BACKWARD: Final = 'batch_norm_grad'
# What the gradient operator of a legacy program reads once statistics are fixed, by the slot that holds it already.
_STATISTICS: Final[Mapping[str, str]] = {'Mean': 'MeanOut', 'Variance': 'VarianceOut'}


def freeze_batch_norm(program: Any) -> list[str]:
    """Let every batch norm that is being trained use its moving mean and variance, and leave them as they are.

    Its scale and shift go on learning. Batch norms in test mode, such as a merged teacher's, are frozen already and
    left alone. A program that has run before computes with the moving statistics from its next run on.

    Args:
        program: a program of either IR, before or after ``minimize``, or a GraphWrapper; changed in place.

    Returns:
        The names of the results of the batch norms that were frozen, in program order; empty where all were.

    Raises:
        GraphError: batch norm within control flow.
        UnsupportedOpError: batch norm of another kind, such as one synchronised among workers; nothing is changed.

    Example:
        >>> slim.quant.freeze_batch_norm(train_program)
        ['batch_norm_0.tmp_2', 'batch_norm_1.tmp_2']
    """
    graph = program if isinstance(program, GraphWrapper) else GraphWrapper(program)
    found = [op for op in graph.ops() if _is_training(op)]
    for op in found:
        if op.type() not in (_FORWARD, _BACKWARD):
            raise UnsupportedOpError(f'{op.type()} cannot use fixed statistics; train with batch_norm', op=op.type())
    inner = next(_inside_control_flow(graph), None)
    if inner is not None:
        raise GraphError(f'{inner} within control flow cannot be frozen; build it outside')
    for op in found:
        op.set_attr('use_global_stats', True)
        if op.type() == _BACKWARD and graph.ir == 'legacy':
            # Without them the kernel looks for the statistics of the batch, and ends the process.
            for slot, holder in _STATISTICS.items():
                op.raw.desc.set_input(slot, [var.name() for var in op.inputs(holder)])
    return [op.outputs('Y')[0].name() for op in found if op.type() == _FORWARD]


def _is_training(op: OpWrapper) -> bool:
    return 'batch_norm' in op.type() and not (op.attr('is_test') or op.attr('use_global_stats'))


def _inside_control_flow(graph: GraphWrapper) -> Iterator[str]:
    """Yield the types of batch norms in training mode within control flow."""
    if graph.ir == 'legacy':
        pending = [op for block in graph.program.blocks[1:] for op in block.ops]
    else:
        pending = [inner for op in graph.ops() for block in op.raw.blocks() for inner in block.ops]
    while pending:
        op = pending.pop()
        if graph.ir == 'pir':
            pending.extend(inner for block in op.blocks() for inner in block.ops)
        name = op.type if graph.ir == 'legacy' else op.name()
        if 'batch_norm' in name:
            values = op.all_attrs() if graph.ir == 'legacy' else op.attrs()
            if not (values.get('is_test') or values.get('use_global_stats')):
                yield name.rpartition('.')[2]


class BatchNormFreezing:
    """Freezes the batch norms of a program after a number of training steps.

    Args:
        program: the program that is trained, of either IR.
        delay: number of steps that are taken with the statistics of the batch; 0 freezes at once, None never.

    Raises:
        ConfigError: ``delay`` is no whole number of at least 0.
        GraphError, UnsupportedOpError: see :func:`freeze_batch_norm`; with delay 0.

    Example:
        >>> freezing = slim.quant.BatchNormFreezing(train_program, delay=1000)
        >>> for feed in batches:
        ...     exe.run(train_program, feed=feed, fetch_list=[loss])
        ...     freezing.step()
    """

    def __init__(self, program: Any, delay: int | None) -> None:
        if delay is not None and (isinstance(delay, bool) or not isinstance(delay, int) or delay < 0):
            raise ConfigError(f'freeze_bn_delay must be a number of steps, at least 0, or None; not {delay!r}')
        self._program = program
        self._delay = delay
        self._steps = 0
        self._frozen = False
        self._freeze_when_due()

    @property
    def frozen(self) -> bool:
        """Whether the batch norms are frozen by now."""
        return self._frozen

    def step(self) -> bool:
        """Count a training step that has been taken, and freeze when the delay is over.

        Returns:
            Whether this very call froze the batch norms.
        """
        self._steps += 1
        return self._freeze_when_due()

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint must keep."""
        return {'steps': self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: the program, built anew, is frozen at once if it was.

        Raises:
            CheckpointError: ``state`` is not what :meth:`state_dict` returns, or the program is frozen while the
                checkpoint was taken before that.
        """
        steps = state.get('steps')
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise CheckpointError(f'the state of batch norm freezing needs a number of steps, not {dict(state)!r}')
        if self._frozen and self._delay is not None and steps < self._delay:
            raise CheckpointError(
                f'the checkpoint was taken at step {steps}, before batch norm was frozen in this program; build it anew'
            )
        self._steps = steps
        self._freeze_when_due()

    def _freeze_when_due(self) -> bool:
        if self._frozen or self._delay is None or self._steps < self._delay:
            return False
        names = freeze_batch_norm(self._program)
        self._frozen = True
        _logger.info('%d batch norms use their moving statistics from step %d on', len(names), self._steps)
        return True
