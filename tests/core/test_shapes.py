"""The shapes in the signatures are in force where pytest is told so (see the Makefile)."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from hrm.core.halting import wants_to_halt
from hrm.core.layers import Linear
from tests.core import small


def test_a_wrong_shape_or_type_in_a_call_is_refused(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--jaxtyping-packages"):
        pytest.skip("shapes are checked in the second pass of make test")
    with pytest.raises(jaxtyping.TypeCheckError):
        wants_to_halt(torch.zeros(2, 3), True)
    with pytest.raises(jaxtyping.TypeCheckError):
        Linear(2, 3)(torch.zeros(1, 2, dtype=torch.long))
    model = small.model()
    inputs, ids = small.batch()
    with pytest.raises(jaxtyping.TypeCheckError):
        model.segment(model.initial_carry(inputs, ids), inputs, ids[:2])
