"""Small models as large ones: live tokens are picked out whatever that saves, unless a test says otherwise."""

import pytest

from hrm.text.model import selection


@pytest.fixture(autouse=True)
def picks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "PICKING", -1)
