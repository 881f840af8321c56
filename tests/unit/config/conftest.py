"""A process without a configuration of its own: neither variables nor a file in the home directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in list(os.environ):
        if variable.startswith("IMSD_"):
            monkeypatch.delenv(variable)
    monkeypatch.setattr("imsd.config_loading.default_file", lambda: None)
