"""Calibration: what the error measures, and that the fitted confidence has little of it."""

from __future__ import annotations

import numpy as np
import pytest

from hrm.core.calibration import calibrate, expected_calibration_error, interval


def test_the_error_is_the_gap_between_confidence_and_accuracy():
    right = np.array([True, True, False, False])
    assert expected_calibration_error(np.full(4, 0.5), right) == 0
    assert expected_calibration_error(np.full(4, 0.9), right) == pytest.approx(0.4)
    assert expected_calibration_error(np.array([0.95, 0.95, 0.05, 0.05]), right) == pytest.approx(0.05)
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0
    assert expected_calibration_error(np.empty(0), np.empty(0, bool)) == 0


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 1.0), (1.0, 0.0), (3.0, -2.0)])
def test_the_fit_finds_how_odds_follow_from_q(scale: float, shift: float):
    rng = np.random.default_rng(0)
    q = rng.normal(0, 2, 20_000)
    right = rng.random(len(q)) < 1 / (1 + np.exp(-(scale * q + shift)))
    assert calibrate(q, right) == pytest.approx((scale, shift), abs=0.1)
    a, b = calibrate(q, right)
    assert expected_calibration_error(1 / (1 + np.exp(-(a * q + b))), right) < 0.02


@pytest.mark.parametrize("right", [True, False])
def test_one_sided_or_few_observations_give_a_finite_fit(right: bool):
    q = np.linspace(-30, 30, 50)
    assert np.isfinite(calibrate(q, np.full(50, right))).all()
    assert calibrate(np.empty(0), np.empty(0, bool)) == pytest.approx((1, 0))


def test_the_interval_of_a_share_is_wilsons():
    assert interval(102, 200) == pytest.approx((0.4412, 0.5784), abs=1e-4)
    assert interval(0, 100) == pytest.approx((0, 0.0370), abs=1e-4)
    assert interval(100, 100) == pytest.approx((0.9630, 1), abs=1e-4)
    assert interval(0, 0) == (0, 1)
