"""Values of the losses, and the gradients that reach the student, against numpy in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.dist import losses_numpy as reference
from tests.dist.loss_cases import CASES, FEATURES, LOGITS, RELATIONS, Case
from tests.dist.loss_program import LossProgram
from tests.dist.losses_numpy import differences

Array = npt.NDArray[Any]


def expected(case: Case, arrays: dict[str, Array], step: float = 1e-6) -> tuple[float, list[Array]]:
    value = case.reference(**arrays)
    return value, [
        differences(lambda x, name=name: case.reference(**{**arrays, name: x}), arrays[name], step)
        for name in case.students
    ]


def agree(case: Case, program: LossProgram, arrays: dict[str, Array], accuracy: float, step: float = 1e-6) -> None:
    value, gradients = program.run(arrays, case.students)
    wanted, slopes = expected(case, arrays, step)
    np.testing.assert_allclose(value, wanted, rtol=accuracy, atol=accuracy)
    for gradient, slope in zip(gradients, slopes):
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(gradient, slope, rtol=accuracy, atol=accuracy * max(0.1, float(np.abs(slope).max())))


@pytest.mark.parametrize('name', CASES)
def test_values_and_gradients_in_single_precision(name: str) -> None:
    case = CASES[name]
    agree(case, LossProgram(case.arrays(), case.build), case.arrays(), 1e-4)


@pytest.mark.parametrize('name', CASES)
def test_an_open_batch_gives_the_same_for_any_number_of_samples(name: str) -> None:
    case = CASES[name]
    program = LossProgram(case.arrays(), case.build, opened=[0], dtype='float64')
    for batch, seed in ((3, 1), (2, 2), (1, 3)):
        agree(case, program, case.arrays(batch, seed=seed), 2e-7)


@pytest.mark.parametrize('name', {**FEATURES, **RELATIONS})
def test_all_sizes_but_channels_may_be_open(name: str) -> None:
    case = CASES[name]
    arrays = case.arrays()
    if 'regression' in name:  # sizes that are unknown count as equal
        arrays['s'] = arrays['s'][:, :, :2]
        case = case._replace(reference=reference.l2)
    elif name == 'attention_transfer':
        arrays['s'] = arrays['s'].reshape(3, 4, 2, 4)
    agree(case, LossProgram(arrays, case.build, opened=[0, 2, 3]), arrays, 1e-4)


@pytest.mark.parametrize('name', LOGITS)
def test_extreme_logits(name: str) -> None:
    case = LOGITS[name]
    arrays = case.arrays()
    for key in ('t', 's'):
        arrays[key] = np.where(arrays[key] > 0, 1e4, -1e4) + np.arange(5)
    agree(case, LossProgram(arrays, case.build), arrays, 1e-3, step=1e-3)


TWINS = [name for name, case in CASES.items() if case.shapes.get('t') == case.shapes.get('s', ())]


@pytest.mark.parametrize('name', TWINS)
def test_a_student_equal_to_its_teacher(name: str) -> None:
    case = CASES[name]
    arrays = case.arrays()
    arrays['s'] = arrays['t'].copy()
    agree(case, LossProgram(arrays, case.build), arrays, 1e-4)


@pytest.mark.parametrize('name', CASES)
def test_samples_that_are_all_the_same(name: str) -> None:
    case = CASES[name]
    arrays = {key: np.repeat(array[:1], len(array), 0) for key, array in case.arrays().items()}
    value, gradients = LossProgram(arrays, case.build).run(arrays, case.students)
    np.testing.assert_allclose(value, case.reference(**arrays), rtol=1e-4, atol=1e-5)
    assert all(np.abs(gradient).max() < 10 for gradient in gradients)


@pytest.mark.parametrize('name', {**FEATURES, **RELATIONS})
def test_a_dead_student(name: str) -> None:
    case = CASES[name]
    arrays = {key: array * (key not in case.students) for key, array in case.arrays().items()}
    value, gradients = LossProgram(arrays, case.build).run(arrays, case.students)
    np.testing.assert_allclose(value, case.reference(**arrays), rtol=1e-4)
    assert all(np.isfinite(gradient).all() and np.abs(gradient).max() < 10 for gradient in gradients)


def test_two_equal_samples_among_others_have_no_gradient_of_their_distance() -> None:
    for case in RELATIONS.values():
        arrays = case.arrays()
        arrays['s'][1] = arrays['s'][0]
        value, gradients = LossProgram(arrays, case.build).run(arrays, case.students)
        np.testing.assert_allclose(value, case.reference(**arrays), rtol=1e-4)
        assert np.isfinite(gradients[0]).all() and np.abs(gradients[0]).max() < 10


@pytest.mark.parametrize('name', ['l2', 'soft_label', 'dkd', 'cosine', 'rkd_distance', 'regression without adapter'])
def test_half_precision_is_computed_in_single(name: str) -> None:
    case = CASES[name]
    arrays = {k: a.astype('float16').astype('float64') for k, a in case.arrays(scale=20.0).items()}
    program = LossProgram(arrays, case.build, dtype='float16')
    value, gradients = program.run(arrays, case.students)
    np.testing.assert_allclose(value, case.reference(**arrays), rtol=1e-4)
    wanted = expected(case, arrays)[1]
    for gradient, slope in zip(gradients, wanted):
        assert gradient.dtype == np.float16
        np.testing.assert_allclose(gradient, slope, rtol=2e-3, atol=1e-4)
