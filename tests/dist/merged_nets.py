"""A student and a teacher in one training program, with a loss between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng import dist
from paddleslim_ng.core import GraphWrapper, load_array, lookup
from paddleslim_ng.core.teachers import teacher_variables
from tests.dist.nets import Net

MAP = {'image': 'image'}
Arrays = dict[str, npt.NDArray[Any]]
# loss(teacher, student, program, startup_program), between the feature maps or the logits
Loss = Callable[[Any, Any, Any, Any], Any]

BETWEEN_FEATURES: Mapping[str, Loss] = {
    'attention_transfer': lambda t, s, main, startup: dist.attention_transfer(t, s, main),
    'similarity': lambda t, s, main, startup: dist.similarity(t, s, main),
    'rkd_distance': lambda t, s, main, startup: dist.rkd_distance(t, s, main),
    'rkd_angle': lambda t, s, main, startup: dist.rkd_angle(t, s, main),
    'regression': lambda t, s, main, startup: dist.regression(t, s, main, startup, adapter='always'),
}
HOLDING: Mapping[str, Loss] = {
    'l2': lambda t, s, main, startup: dist.l2(t, s, main),
    'cosine': lambda t, s, main, startup: dist.cosine(t, s, main),
    'fsp': lambda t, s, main, startup: dist.fsp(t, t, s, s, main),
    'by hand': lambda t, s, main, startup: paddle.mean((t - s) * (t - s)),
}
BETWEEN_LOGITS: Mapping[str, Loss] = {
    'soft_label': lambda t, s, main, startup: dist.soft_label(t, s, main, 4.0, 4.0),
    'hinton': lambda t, s, main, startup: dist.hinton(t, s, 'label', main, temperature=4.0),
    'correlation': lambda t, s, main, startup: dist.correlation(t, s, main),
    'by hand': lambda t, s, main, startup: paddle.mean((t - s) * (t - s)),
}


def optimizer() -> Any:
    return paddle.optimizer.Momentum(0.05, 0.9)


class Distilled:
    """A student with a merged teacher of nine channels.

    Args:
        loss: between the two; None for none.
        on: ``'features'`` or ``'logits'``.
        width: channels of the student.
        teacher: a teacher's width.
        minimize: whether the program trains.
        student: what becomes the student instead: a network and a program that descends from its own.
    """

    def __init__(
        self,
        loss: Loss | None,
        on: str = 'logits',
        width: int = 6,
        teacher: int = 9,
        minimize: bool = True,
        student: tuple[Net, Any] | None = None,
    ) -> None:
        self.net, self.main = student or (Net(width), None)
        self.main = self.main or self.net.main
        self.scope, self.startup = self.net.scope, paddle.static.Program()
        self.teacher = Net(teacher, 't_', seed=2)
        self.merged = dist.merge(self.teacher.main, self.main, MAP, scope=self.scope, teacher_scope=self.teacher.scope)
        with paddle.static.program_guard(self.main, self.startup), paddle.utils.unique_name.guard('more_'):
            self.total = lookup(self.main, self.net.loss)
            if loss is not None:
                mine, theirs = getattr(self.net, on), self.merged[getattr(self.teacher, on)]
                self.gap = loss(theirs, lookup(self.main, mine), self.main, self.startup)
                self.total = self.total + self.gap
            if minimize:
                optimizer().minimize(self.total)
        self.startup.random_seed = 3
        self.net.exe.run(self.startup, scope=self.scope)

    def teachers(self) -> Arrays:
        """Return the teacher's parameters and state as they are in the student's scope."""
        found = teacher_variables(GraphWrapper(self.main))['teacher_']
        return {var.name(): load_array(self.scope, var.name()) for var in found}


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
