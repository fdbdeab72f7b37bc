"""Devices by the names that flags give them."""

from __future__ import annotations

import pytest
import torch

from hrm.core.devices import device_of
from hrm.files.reading import UserError


@pytest.mark.parametrize("name", ["meta", "hpu", "privateuseone", "mkldnn", "xla", "nonsense", "cpu:x", ""])
def test_a_device_that_is_not_here_is_refused_in_the_words_of_training(name: str) -> None:
    with pytest.raises(UserError, match=rf"^--device {name} is not available here: use \w+ or auto$"):
        device_of(name)


def test_the_devices_that_are_here() -> None:
    assert device_of("cpu") == torch.device("cpu") and device_of("auto") == device_of(None)
