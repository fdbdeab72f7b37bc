"""Learners here dream little: to continue kept text takes longer than to learn these short books."""

import pytest


@pytest.fixture(autouse=True)
def few_dreams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrm.text.learning.memory.DREAMS", 80)
