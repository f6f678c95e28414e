"""The programs that the distillation benchmark runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import paddle
from harness import PADDLESLIM

import paddleslim_ng as slim
from cases import distillation, networks


class Part(NamedTuple):
    """A network in a program of its own."""

    main: Any
    startup: Any
    loss: Any
    logits: Any


def teacher(quick: bool) -> Part:
    """Build a ResNet50 without a loss."""
    return _build('ResNet50', quick, labelled=False)


def student(quick: bool, target: bool = False) -> Part:
    """Build a MobileNet with its cross-entropy and, with ``target``, an input in place of the teacher's map."""
    return _build('MobileNet', quick, labelled=True, target=target)


def _build(name: str, quick: bool, labelled: bool, target: bool = False) -> Part:
    network = slim.models.create(name, scale=0.25 if quick else 1.0)
    main, startup = paddle.static.Program(), paddle.static.Program()
    main.random_seed = startup.random_seed = 1
    loss = None
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        image = paddle.static.data('image', [None, 3, *size(quick)], 'float32')
        network.net(image, class_dim=1000)
        if labelled:
            label = paddle.static.data('label', [None, 1], 'int64')
            loss = paddle.nn.functional.cross_entropy(network.logits, label)
        if target:
            shape = slim.GraphWrapper(main).var(distillation.PAIR[1]).shape()
            paddle.static.data('target', [None, *shape[1:]], 'float32')
    return Part(main, startup, loss, network.logits)


def size(quick: bool) -> tuple[int, int]:
    return (64, 64) if quick else (224, 224)


def start(part: Part, scope: Any) -> None:
    """Give parameters the same values in every environment."""
    slim.Executor().run(part.startup, scope=scope)
    networks.fill(part.main, scope)


def step(side: str, layout: str, quick: bool) -> Callable[[], Any]:
    """Return a function that runs one step: of the teacher alone, the student alone, or both in some layout."""
    scope = paddle.static.Scope()
    program, fetch = LAYOUTS[layout](side, quick, scope)
    random = np.random.default_rng(0)
    feed = {'image': random.standard_normal((distillation.BATCH, 3, *size(quick))).astype(np.float32)}
    if layout != 'teacher':
        feed['label'] = random.integers(0, 1000, (distillation.BATCH, 1))
    if layout == 'student':
        shape = slim.GraphWrapper(program).var('target').shape()[1:]
        feed['target'] = random.standard_normal((distillation.BATCH, *shape)).astype(np.float32)
    exe = slim.Executor()
    return lambda: exe.run(program, feed, [fetch], scope=scope)


def _teacher_alone(side: str, quick: bool, scope: Any) -> tuple[Any, Any]:
    part = teacher(quick)
    start(part, scope)
    return slim.core.clone_program(part.main, for_test=True), distillation.FEATURE


def _student_alone(side: str, quick: bool, scope: Any) -> tuple[Any, Any]:
    part = student(quick, target=True)
    loss = _train(side, part, ('target', distillation.PAIR[1]))
    start(part, scope)
    return part.main, loss


def _merged(side: str, quick: bool, scope: Any) -> tuple[Any, Any]:
    above, part = teacher(quick), student(quick)
    start(above, scope)
    distillation.merge(side, above.main, part.main, scope)
    loss = _train(side, part, distillation.PAIR)
    slim.Executor().run(part.startup, scope=scope)
    return part.main, loss


def _behind(side: str, quick: bool, scope: Any) -> tuple[Any, Any]:
    """Copy the student to the front of the teacher."""
    from paddleslim_ng.core.merging import merge_program

    above, part = teacher(quick), student(quick)
    main = slim.core.clone_program(above.main, for_test=True)
    with paddle.static.program_guard(main):
        paddle.static.data('label', [None, 1], 'int64')
    graph, source = slim.GraphWrapper(main), slim.GraphWrapper(part.main)
    names = merge_program(graph, source, {'image': 'image', 'label': 'label'}, 's_', frozen=False).names
    raw = slim.GraphWrapper(main).var(names[source.name_of(part.loss)]).raw
    both = Part(main, above.startup, raw, None)
    loss = _train(side, both, (distillation.FEATURE, names[distillation.PAIR[1]]))
    start(above, scope)
    _start_copy(part, scope, names)
    return main, loss


def _flowing(side: str, quick: bool, scope: Any) -> tuple[Any, Any]:
    """Copy the teacher to the front as something that learns."""
    from paddleslim_ng.core.merging import merge_program

    above, part = teacher(quick), student(quick)
    evaluation = slim.core.clone_program(above.main, for_test=True)
    graph, source = slim.GraphWrapper(part.main), slim.GraphWrapper(evaluation)
    names = merge_program(graph, source, {'image': 'image'}, 'teacher_', frozen=False).names
    graph = slim.GraphWrapper(part.main)
    with paddle.static.program_guard(part.main, part.startup), paddle.utils.unique_name.guard('flowing'):
        gap = graph.var(distillation.PAIR[1]).raw - graph.var(distillation.PAIR[0]).raw
        loss = paddle.mean(gap * gap) + part.loss
        paddle.optimizer.Momentum(0.01, 0.9).minimize(loss)
    slim.Executor().run(part.startup, scope=scope)
    _start_copy(above, scope, names)
    return part.main, loss


LAYOUTS: dict[str, Callable[[str, bool, Any], tuple[Any, Any]]] = {
    'teacher': _teacher_alone,
    'student': _student_alone,
    'merged': _merged,
    'behind': _behind,
    'flowing': _flowing,
}


def _train(side: str, part: Part, pair: tuple[str, str]) -> Any:
    """Add the side's loss on a pair of maps and an optimizer."""
    with paddle.static.program_guard(part.main, part.startup), paddle.utils.unique_name.guard('distillation'):
        if side == PADDLESLIM:
            from paddleslim.dist import l2 as their_l2

            distance = their_l2(*pair, part.main)
        else:
            distance = slim.dist.l2(*pair, part.main)
        loss = distance + part.loss
        paddle.optimizer.Momentum(0.01, 0.9).minimize(loss)
    return loss


def _start_copy(part: Part, scope: Any, names: Any) -> None:
    """Put initial values of a network under the names of its copy."""
    own = paddle.static.Scope()
    start(part, own)
    for var in slim.GraphWrapper(part.main).all_parameters():
        if var.name() in names:
            slim.core.store_array(scope, names[var.name()], slim.core.load_array(own, var.name()), paddle.CPUPlace())
