"""Ratios by loss: the tutorial's printed figures, and what its table does not show."""

from __future__ import annotations

import logging

import pytest

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune.sensitive.ratios_by_loss import get_ratios_by_loss

TUTORIAL = {
    'conv2_1_sep_weights': {0.1: 0.0033160544, 0.2: 0.0034197175, 0.3: 0.0070466385},
    'conv2_2_sep_weights': {0.1: 0.0004145299, 0.2: 0.006321242, 0.3: 0.009015563},
    'conv3_1_sep_weights': {0.1: -0.0007253965, 0.2: 0.0072539034, 0.3: 0.034715},
    'conv3_2_sep_weights': {0.1: 0.0025906577, 0.2: 0.016580332, 0.3: 0.05564765},
    'conv4_1_sep_weights': {0.1: 0.00093266147, 0.2: 0.011813486, 0.3: 0.032331605},
}
PRINTED = {
    'conv2_1_sep_weights': 0.3,
    'conv2_2_sep_weights': 0.3,
    'conv3_1_sep_weights': 0.20999995231656052,
    'conv3_2_sep_weights': 0.15296293795649352,
    'conv4_1_sep_weights': 0.1833331959422747,
}


def test_tutorial_table() -> None:
    found = get_ratios_by_loss(TUTORIAL, 0.01)
    assert list(found) == list(PRINTED)
    assert found == pytest.approx(PRINTED, abs=5e-8)


def test_tutorial_curves_are_monotone_already() -> None:
    assert get_ratios_by_loss(TUTORIAL, 0.01, monotone=True) == get_ratios_by_loss(TUTORIAL, 0.01)


def test_noisy_curve_gives_its_last_crossing_unless_made_monotone() -> None:
    curve = {0.1: 0.0, 0.2: 0.05, 0.3: 0.0, 0.4: 0.05}
    assert get_ratios_by_loss({'w': curve}, 0.01)['w'] == pytest.approx(0.32)
    # Isotonic regression pools 0.05 and 0.0 into 0.025 each.
    assert get_ratios_by_loss({'w': curve}, 0.01, monotone=True)['w'] == pytest.approx(0.14)


def test_order_of_the_measurements_does_not_matter() -> None:
    assert get_ratios_by_loss({'w': {0.3: 0.1, 0.1: 0.0}}, 0.05) == {'w': pytest.approx(0.2)}


def test_too_sensitive_parameter_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, 'paddleslim_ng'):
        assert get_ratios_by_loss({'w': {0.1: 0.2}, 'v': {0.1: 0.0}}, 0.1) == {'v': 0.1}
    assert 'w' in caplog.text


def test_through_zero_gives_it_a_small_ratio() -> None:
    assert get_ratios_by_loss({'w': {0.1: 0.2}}, 0.1, through_zero=True) == {'w': pytest.approx(0.05)}


@pytest.mark.parametrize('monotone', [False, True])
def test_negative_losses_are_fine(monotone: bool) -> None:
    curves = {'w': {0.1: -0.2, 0.2: -0.1}}
    assert get_ratios_by_loss(curves, 0.01, monotone=monotone) == {'w': 0.2}
    assert get_ratios_by_loss(curves, -0.15, monotone=monotone) == {'w': pytest.approx(0.15)}


def test_empty_curve_is_left_out() -> None:
    assert get_ratios_by_loss({'w': {}}, 0.1, monotone=True) == {}


def test_numbers_must_be_finite() -> None:
    with pytest.raises(ConfigError, match='finite'):
        get_ratios_by_loss(TUTORIAL, float('nan'))
    with pytest.raises(ConfigError, match="'w'"):
        get_ratios_by_loss({'w': {0.1: float('nan')}}, 0.1)
