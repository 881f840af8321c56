"""The suite on the key services that come with imsd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from imsd_kms_local.keyring_seal import ScryptCost
from imsd_kms_local.options import LocalKeysOptions
from imsd_kms_local.service import open_local_keys
from imsd_kms_transit.service import open_transit_keys

from imsd.contract import KeyService
from imsd.testing.key_service_suite import KeyServiceSuite
from imsd.testing.memory_keys import MemoryKeys
from tests.openbao import OpenBao
from tests.transit import token_options


class TestMemoryKeys(KeyServiceSuite):
    @pytest.fixture
    def keys(self) -> KeyService:
        return MemoryKeys()


class TestLocalKeys(KeyServiceSuite):
    @pytest.fixture
    async def keys(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KeyService]:
        monkeypatch.setattr("imsd_kms_local.keyring_seal.COST", ScryptCost(n=1 << 14, p=1))
        passphrase = tmp_path / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text("correct horse battery staple\n")
        options = LocalKeysOptions(path=tmp_path / "keyring", passphrase_file=passphrase)
        async with open_local_keys(options) as keys:
            yield keys


class TestTransitKeys(KeyServiceSuite):
    @pytest.fixture
    async def keys(self, openbao: OpenBao, tmp_path: Path) -> AsyncIterator[KeyService]:
        """By a token that may do what the README of the driver asks for, and no more."""
        options = token_options(openbao, tmp_path)
        async with open_transit_keys(options) as keys:
            yield keys
