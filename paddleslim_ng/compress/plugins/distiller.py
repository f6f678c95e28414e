"""What a distiller is: a loss between a merged teacher and the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Union

from paddleslim_ng.errors import GraphError, nearest_names

__all__ = ['Distiller', 'Teacher', 'of_teacher', 'prefix_of']

Teacher = Union[str, Mapping[str, Any]]


class Distiller(ABC):
    """A loss between a teacher and the network.

    Args:
        weight: factor of the loss in the sum that is minimized.
        teacher: number of the teacher, counted from 0.
    """

    def __init__(self, weight: float = 1.0, teacher: int = 0) -> None:
        self.weight, self.teacher = weight, teacher

    @abstractmethod
    def loss(self, program: Any, teacher: Teacher, startup_program: Any = None) -> Any:
        """Build the loss, without its weight.

        Args:
            program: the network's program with the teacher merged into it, before ``minimize``.
            teacher: what :func:`slim.dist.merge` returned, ``{name in the teacher: what took its place}``, or the
                prefix of the teacher's names.
            startup_program: takes initial values of what a loss has to learn.

        Returns:
            A scalar Variable or Value.

        Raises:
            GraphError: a tensor does not exist, or two do not fit together.
        """


def of_teacher(teacher: Teacher, name: str) -> Any:
    """Return a tensor of a merged teacher, or its name in the program, by its name in the teacher."""
    if isinstance(teacher, str):
        return teacher + name
    if name not in teacher:
        raise GraphError(f'the teacher has no tensor {name!r}{nearest_names(name, map(str, teacher))}')
    return teacher[name]


def prefix_of(teacher: Teacher) -> str:
    """Return what the names of a merged teacher begin with."""
    prefix = teacher if isinstance(teacher, str) else getattr(teacher, 'prefix', None)
    if not isinstance(prefix, str):
        raise GraphError('the last layers of a teacher are found by its prefix: give what slim.dist.merge returned')
    return prefix
