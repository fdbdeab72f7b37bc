"""A change that does not touch the computation leaves the losses as they are (tests/golden/losses.py)."""

import json

import pytest

from tests.golden.losses import CONFIGURATIONS, FILE, losses


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_losses_are_the_recorded_ones(name: str) -> None:
    recorded = json.loads(FILE.read_text())[name]
    for key, values in losses(name).items():
        assert values == pytest.approx(recorded[key], rel=1e-4, abs=1e-6), key
