"""A program whose inputs are teacher and student themselves, so that a loss and its gradient can be read off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

Array = npt.NDArray[Any]


class LossProgram:
    """Inputs of the given arrays' shapes, and a loss on them.

    Args:
        arrays: ``{name: content}``; floating-point ones let gradients pass.
        build: makes the loss from the program and the startup program.
        opened: axes whose sizes are left open.
        dtype: of the floating-point inputs.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        build: Callable[[Any, Any], Any],
        opened: Sequence[int] = (),
        dtype: str = 'float32',
    ) -> None:
        self.main, self.startup, self.scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        self.exe = paddle.static.Executor(paddle.CPUPlace())
        self.dtype = dtype
        self.inputs: dict[str, Any] = {}
        self.gradients: dict[str, Any] = {}
        with paddle.static.program_guard(self.main, self.startup), paddle.utils.unique_name.guard():
            for name, array in arrays.items():
                shape = [-1 if axis in opened else size for axis, size in enumerate(array.shape)]
                floating = array.dtype.kind == 'f'
                value = paddle.static.data(name, shape, dtype if floating else str(array.dtype))
                value.stop_gradient = not floating
                self.inputs[name] = value
            self.loss = build(self.main, self.startup)
            wanted = [name for name, array in arrays.items() if array.dtype.kind == 'f']
            made = paddle.static.gradients([self.loss], [self.inputs[name] for name in wanted])
            self.gradients = dict(zip(wanted, made))
        with paddle.static.scope_guard(self.scope):
            self.exe.run(self.startup)

    def run(self, arrays: Mapping[str, Array], students: Sequence[str]) -> tuple[float, list[Array]]:
        """Return the loss and its gradients for the students, the only inputs that may have one."""
        assert {name for name, value in self.gradients.items() if value is not None} == set(students)
        feed = {n: a.astype(self.dtype) if a.dtype.kind == 'f' else a for n, a in arrays.items()}
        fetches = [self.loss, *(self.gradients[name] for name in students)]
        value, *gradients = self.exe.run(self.main, feed=feed, fetch_list=fetches, scope=self.scope)
        assert value.shape in ((), (1,))
        return float(np.asarray(value).reshape(())), gradients
