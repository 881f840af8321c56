"""Real systems, made once and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest_systems.systems import Systems


@pytest.fixture(scope="session")
def systems() -> Systems:
    return Systems(Path(__file__).parents[2] / ".cache" / "guest-systems")
