"""Losses that compare features of different shapes, through a layer that is trained along with the student."""

from __future__ import annotations

import copy
from typing import Any

import paddle

from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.graph_wrapper import GraphWrapper, VarWrapper
from paddleslim_ng.dist.losses_program import building, check_shapes, features, prepare, wrap
from paddleslim_ng.dist.losses_resize import check_windows, resize
from paddleslim_ng.errors import ConfigError, GraphError

__all__ = ['regression']

_ADAPTERS = ('auto', 'always', 'never')


def regression(
    teacher: Any,
    student: Any,
    program: Any = None,
    startup_program: Any = None,
    *,
    adapter: str = 'auto',
    weight_attr: Any = None,
    bias_attr: Any = None,
) -> Any:
    """Build the mean square difference of the teacher's features and what an adapter makes of the student's.

    The adapter is a 1x1 convolution for maps [N, C, H, W], and a linear layer over the last axis for [N, C] and
    [N, L, C]. It has a bias, is trained with the student, and leaves with the teacher (:func:`slim.dist.strip`). Maps
    whose sizes differ by a whole factor are averaged over windows, the larger of the two (Romero et al. 2015, "FitNets:
    hints for thin deep nets"; a mean here, so that weights compare with those of :func:`l2`).

    Args:
        teacher: the teacher's features, a name, Variable or Value.
        student: the student's, with as many axes. Sequences have one length.
        program: merged program of either IR; the default main program where None.
        startup_program: takes the adapter's initial values; the default startup program where None. Run it afterwards,
            or those of its operators that are new.
        adapter: ``'auto'`` makes one where the numbers of channels differ, ``'always'`` in any case, ``'never'`` none.
        weight_attr: ``paddle.ParamAttr`` of the adapter's weight: name, initializer, learning rate. Paddle's default
            initializer (Xavier's) where None.
        bias_attr: ``paddle.ParamAttr`` of its bias; zeros where None.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, the two do not fit together, sizes differ by no whole factor, the number
            of channels is unknown, or the programs are of different IRs.
        ConfigError: the adapter is none of the three.

    Example:
        >>> loss = slim.dist.regression('teacher_conv2d_9.tmp_0', 'conv2d_4.tmp_0', program, startup)
    """
    if adapter not in _ADAPTERS:
        raise ConfigError(f'adapter must be one of {", ".join(map(repr, _ADAPTERS))}, not {adapter!r}')
    graph = wrap(program)
    teacher, student = features(graph, teacher, student, ranks=(2, 3, 4))
    channels = _channels(teacher, student, adapter)
    windows = check_windows(teacher, student) if len(teacher.shape()) == 4 else (None, None)
    startup = paddle.static.default_startup_program() if startup_program is None else startup_program
    if channels is not None:
        _check_startup(graph, startup)
        _check_attributes(graph, weight_attr, bias_attr)
    with building(graph, 'regression', *([startup] if channels is not None else [])) as e:
        t, s = (resize(e, x, window) for x, window in zip(prepare(e, [teacher], [student]), windows))
        if channels is not None:
            s = _adapt(e, s, channels, (weight_attr, bias_attr))
        loss = e.mean(e.square(e.subtract(s, t)))
    return loss.raw


def _channels(teacher: VarWrapper, student: VarWrapper, adapter: str) -> tuple[int, int] | None:
    """Return the channels that an adapter takes and gives, or None where there is none."""
    rank = len(teacher.shape())
    axis = 1 if rank == 4 else rank - 1
    advice = '' if len(student.shape()) == rank else ': an adapter changes channels, not the number of axes'
    check_shapes(teacher, student, (axis, 2, 3) if rank == 4 else (axis,), advice)
    given, wanted = student.shape()[axis], teacher.shape()[axis]
    if adapter == 'never' or (adapter == 'auto' and given == wanted):
        check_shapes(teacher, student, (2, 3) if rank == 4 else (), "; adapter='auto' makes an adapter")
        return None
    for var, count in ((student, given), (teacher, wanted)):
        if count < 1:
            raise GraphError(f'an adapter needs a known number of channels; {var.name()!r} is {list(var.shape())}')
    return given, wanted


def _check_startup(graph: GraphWrapper, startup: Any) -> None:
    ir = GraphWrapper(startup).ir
    if ir != graph.ir:
        raise GraphError(f'the program is of the {graph.ir} IR and its startup program of the {ir} IR')
    if startup is graph.program:
        raise GraphError('give the startup program of the program, not the program itself')


def _check_attributes(graph: GraphWrapper, *attrs: Any) -> None:
    for attr in attrs:
        if attr is None:
            continue
        if not isinstance(attr, paddle.ParamAttr):
            raise ConfigError(f'weight_attr and bias_attr are paddle.ParamAttr or None, not {attr!r}')
        if attr.name is not None and graph.has_var(attr.name):
            raise GraphError(f'cannot name a parameter of the adapter {attr.name!r}: the program has such a variable')


def _adapt(e: Expressions, x: VarWrapper, channels: tuple[int, int], attrs: tuple[Any, Any]) -> VarWrapper:
    given, wanted = channels
    maps = len(x.shape()) == 4
    name = paddle.utils.unique_name.generate('distillation_adapter')
    weight = _parameter(e, [wanted, given, 1, 1] if maps else [given, wanted], x.dtype(), attrs[0], f'{name}.w_0')
    bias = _parameter(e, [1, wanted, 1, 1] if maps else [wanted], x.dtype(), attrs[1], f'{name}.b_0', is_bias=True)
    return e.add(e.convolve(x, weight) if maps else e.matmul(x, weight), bias)


def _parameter(
    e: Expressions, shape: list[int], dtype: str, attr: Any, name: str, *, is_bias: bool = False
) -> VarWrapper:
    own = paddle.ParamAttr() if attr is None else copy.copy(attr)
    own.name = own.name or name
    raw = paddle.static.create_parameter(shape, dtype, attr=own, is_bias=is_bias)
    return VarWrapper(e.here.graph, raw, own.name)
