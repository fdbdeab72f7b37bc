"""Where tests find real data."""

import os
from pathlib import Path

import pytest


def hrm_data() -> Path:
    """The folder of real data sets named by HRM_DATA; skips the test where it is not set."""
    folder = os.environ.get("HRM_DATA")
    if not folder:
        pytest.skip("HRM_DATA is not set: this test needs the real data sets")
    return Path(folder)
