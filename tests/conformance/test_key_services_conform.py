"""The suite on the key services that come with imsd."""

from __future__ import annotations

import pytest

from imsd.contract import KeyService
from imsd.testing.key_service_suite import KeyServiceSuite
from imsd.testing.memory_keys import MemoryKeys


class TestMemoryKeys(KeyServiceSuite):
    @pytest.fixture
    def keys(self) -> KeyService:
        return MemoryKeys()
