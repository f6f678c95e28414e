"""Distillation: merging a teacher, and what a training step with it costs in time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import OURS, PADDLESLIM, Case, Metric, Outcome, Results, Target, cpu_seconds, median_of

BATCH = 8
REPEATS = 3
TRIPLES = 8
FEATURE = 'bn5c_branch2b.output.1.tmp_3'
PAIR = ('teacher_' + FEATURE, 'depthwise_conv2d_11.tmp_0')
MEGABYTE = 2**20
# What is in memory: the networks, and in what order or state.
LAYOUTS = {
    'student': 'student alone, with a fed constant for the teacher',
    'merged': 'merged',
    'behind': 'the same with the teacher behind the student',
    'flowing': 'the same with gradients through the teacher, which learns, too',
}
# How Paddle's executor runs operators that do not need each other.
ORDERS = {'serial': 'one after the other', 'default': 'as it pleases'}


def measure(side: str, quick: bool) -> Outcome:
    outcome = Outcome()
    _measure_merge(side, quick, outcome)
    _measure_steps(side, quick, outcome)
    for layout in LAYOUTS:
        for order in ORDERS:
            if side != PADDLESLIM or layout in ('student', 'merged'):
                allocated, resident = _peak(side, layout, order, quick)
                outcome.add(f'peak_{order}_{layout}', allocated)
                outcome.facts[f'resident_{order}_{layout}'] = resident
    return outcome


def merge(side: str, teacher: Any, student: Any, scope: Any, teacher_scope: Any = None, check: bool = False) -> Any:
    """Merge with the side's function."""
    from cases import distilled

    place, names = distilled.paddle.CPUPlace(), {'image': 'image'}
    if side == PADDLESLIM:
        from paddleslim.dist import merge as their_merge

        return their_merge(teacher, student, names, place, scope, teacher_scope)
    from paddleslim_ng.dist import merge as our_merge

    return our_merge(teacher, student, names, place, scope, teacher_scope, check=check)


def _measure_merge(side: str, quick: bool, outcome: Outcome) -> None:
    from cases import distilled

    def one(quick: bool, apart: bool, check: bool) -> float:
        teacher, student = distilled.teacher(quick), distilled.student(quick)
        scope = distilled.paddle.static.Scope()
        home = distilled.paddle.static.Scope() if apart else scope
        distilled.start(teacher, home)
        return cpu_seconds(lambda: merge(side, teacher.main, student.main, scope, home if apart else None, check))[0]

    kinds = {'merge': (False, False), 'merge_apart': (True, False), 'merge_checked': (False, True)}
    if side == PADDLESLIM:
        del kinds['merge_checked']
    for kind, (apart, check) in kinds.items():
        one(True, apart, check)
        for _ in range(1 if quick else REPEATS):
            outcome.add(kind, one(quick, apart, check))


def _measure_steps(side: str, quick: bool, outcome: Outcome) -> None:
    """Let the merged program, the teacher and the student take turns on the same images."""
    from cases import distilled

    steps = {layout: distilled.step(side, layout, quick) for layout in ('teacher', 'student', 'merged')}
    for run in steps.values():
        run()
    for _ in range(1 if quick else TRIPLES):
        seconds = {layout: cpu_seconds(run)[0] for layout, run in steps.items()}
        for layout, value in seconds.items():
            outcome.add(f'step_{layout}', value)
        outcome.add('step_ratio', seconds['merged'] / (seconds['teacher'] + seconds['student']))


def _peak(side: str, layout: str, order: str, quick: bool) -> tuple[float, float]:
    here = Path(__file__).resolve().parents[1]
    code = f'from cases import distillation; distillation.show_peak({side!r}, {layout!r}, {order!r}, {quick})'
    path = os.pathsep.join([str(here), *filter(None, [os.environ.get('PYTHONPATH')])])
    done = subprocess.run(
        [sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': path}, capture_output=True, text=True, check=True
    )
    allocated, resident = done.stdout.split()[-2:]
    return float(allocated), float(resident)


def show_peak(side: str, layout: str, order: str, quick: bool) -> None:
    """Train two steps; print what Paddle held at most, and the process, in bytes. A parent's memory does not count."""
    import paddle
    from paddle.base import core

    paddle.set_flags({'FLAGS_new_executor_serial_run': order == 'serial'})
    paddle.enable_static()
    from cases import distilled

    run = distilled.step(side, layout, quick)
    run(), run()
    status = Path('/proc/self/status').read_text(encoding='utf-8').splitlines()
    resident = next(float(line.split()[1]) for line in status if line.startswith('VmHWM')) * 1024.0
    print(float(core.host_memory_stat_peak_value('Allocated', 0)), resident)


def notes(results: Results) -> list[str]:
    found = []
    for side, outcome in results.items():
        plain, checked = outcome.median('merge'), outcome.median('merge_checked')
        if plain is not None and checked is not None:
            found.append(
                f'{side}: the check takes {checked - plain:.2f} s of {checked:.2f} s: the teacher runs twice, '
                'alone and merged, on one made-up image.'
            )
    for side, outcome in results.items():
        told = [
            f'{value / MEGABYTE:.0f} MB {layout}'
            for layout in LAYOUTS
            if (value := outcome.facts.get(f'resident_serial_{layout}')) is not None
        ]
        found.append(
            f'Largest resident size of the whole process, operators one after the other, {side}: {", ".join(told)}.'
        )
    found.append(
        "Memory is Paddle's own count of what its allocator gave out, at its peak; parameters, momentum and the "
        "teacher's parameters (98 MB) included. By default, the executor runs operators that do not need each other on "
        'several threads, and its peak varies from run to run; `FLAGS_new_executor_serial_run=1` has it run one after '
        'the other. PaddleSlim appends the teacher behind the student.'
    )
    return found


CASE = Case(
    key='distillation',
    title='Distillation',
    text='`dist.merge` of a ResNet50 into a MobileNet for images of 3x224x224: teacher and student in one scope, and '
    f'in two. A training step with Momentum for {BATCH} images, with the mean square difference of one pair of feature '
    f'maps ({" and ".join(f"`{name}`" for name in PAIR)}) beside the cross-entropy: the merged program against the '
    'teacher alone plus the student alone, which is fed a constant in place of the map; they take turns in one '
    'process. Memory at its peak, each program in a process of its own.',
    measure=measure,
    metrics=(
        Metric('merge', '`merge`, one scope, unchecked'),
        Metric('merge_apart', '`merge`, two scopes, unchecked'),
        Metric('merge_checked', '`merge`, one scope, with the check', compare=False),
        Metric('step_teacher', 'teacher, forward', 'ms', 1000.0, compare=False),
        Metric('step_student', 'student, training step', 'ms', 1000.0, compare=False),
        Metric('step_merged', 'merged, training step', 'ms', 1000.0, compare=False),
        Metric('step_ratio', 'merged / (teacher + student)', '', compare=False),
        *(
            Metric(f'peak_{order}_{layout}', f'peak memory, operators {how}: {text}', 'MB', 1 / MEGABYTE, compare=False)
            for order, how in ORDERS.items()
            for layout, text in LAYOUTS.items()
        ),
    ),
    targets=(
        Target('merge, unchecked', OURS, median_of('merge'), 0.15, 's'),
        Target('training step', OURS, median_of('step_ratio'), 1.03, 'times teacher + student'),
    ),
    rounds=2,
    notes=notes,
)
