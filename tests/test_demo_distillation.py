"""demo/distillation from its command lines, in a small way: one teacher, several, none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import paddleslim_ng as slim
from tests import demo_scripts
from tests.demo_scripts import demo

SMALL = ['--image_size', '12', '--steps', '3', '--labels', '20', '--batch_size', '10']
TEACHER = ['--teacher_scale', '0.125', '--teacher_steps', '2', '--unlabelled', '4']


def script(name: str, *arguments: str, folder: Path) -> str:
    return demo(f'distillation/{name}', *SMALL, *arguments, folder=folder)


def figures(folder: Path) -> dict[str, float]:
    found = demo_scripts.figures(folder / 'distilled')
    assert all(0.0 <= value <= 1.0 for value in found.values())
    return found


def parameters(model: Path) -> dict[str, tuple[int, ...]]:
    loaded = slim.runtime.load_inference_model(model, paddle_scope())
    return {var.name(): tuple(var.shape()) for var in slim.GraphWrapper(loaded.program).all_parameters()}


def paddle_scope() -> Any:
    import paddle

    return paddle.static.Scope()


@pytest.fixture(scope='module')
def student_of_one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp('one')
    return folder, script('distill', *TEACHER, '--student_scale', '0.125', '--loss', 'dkd', folder=folder)


def test_one_teacher(student_of_one: tuple[Path, str], ir: str) -> None:
    folder, output = student_of_one
    assert f'{"PIR" if ir == "pir" else "legacy"} programs' in output
    assert re.search(r'its outputs differ by 0\.0 from those alone', output)
    assert 'teacher depth  fit' in output
    assert list(figures(folder)) == ['teacher', 'student alone', 'student, dkd']
    saved = parameters(folder / 'distilled' / 'student')
    assert len(saved) == 137 and not [name for name in saved if name.startswith('teacher')]
    assert saved['conv6_sep_weights'] == (128, 128, 1, 1)


def test_a_saved_teacher_and_a_pair_of_maps(student_of_one: tuple[Path, str]) -> None:
    folder, _ = student_of_one
    flags = ['--student', 'LeNet', '--teacher', 'distilled/teacher', *TEACHER, '--loss', 'regression', '--warmup', '2']
    output = script('distill', *flags, '--output', 'again', folder=folder)
    assert re.search(r'regression between teacher_\S+ and \S+, weight Warmup', output)
    again = demo_scripts.figures(folder / 'again')
    assert again['teacher'] == figures(folder)['teacher']
    assert len(parameters(folder / 'again' / 'student')) == 10, 'the adapter has left with the teacher'


def test_several_teachers(tmp_path: Path) -> None:
    output = script('multi_teacher', *TEACHER, '--teachers', 'LeNet', 'ResNet18', folder=tmp_path)
    assert 'the student of all teachers' in output
    assert list(figures(tmp_path)) == [
        'teacher 0, LeNet',
        'teacher 1, ResNet18',
        'student alone',
        'student of teacher 0',
        'student of teacher 1',
        'student of all, probability',
    ]
    assert len(parameters(tmp_path / 'distilled' / 'student')) == 10


def test_mutual_learning(tmp_path: Path) -> None:
    output = script('mutual_learning', folder=tmp_path)
    first, second = re.findall(
        r'peer \d, last steps: own loss (\d+\.\d+), divergence from the others (\d+\.\d+)', output
    )
    assert float(first[1]) > 0 and first != second
    assert list(figures(tmp_path)) == [
        'peer 0 alone, LeNet',
        'peer 1 alone, LeNet',
        'peer 0 together',
        'peer 1 together',
    ]
    for number in (0, 1):
        assert len(parameters(tmp_path / 'distilled' / f'peer{number}')) == 10
