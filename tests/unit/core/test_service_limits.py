"""The limits as data."""

from __future__ import annotations

from imsd.config import Config
from imsd.config_limits import Limits, Quotas
from imsd.core.quota_rules import RULES as QUOTA_RULES
from imsd.core.service_limits import RULES


def test_every_limit_says_what_it_is_and_where_it_comes_from() -> None:
    for rule in RULES.values():
        assert rule.summary.endswith(".")
        assert rule.unit
        assert rule.lowest <= rule.highest
        assert not rule.default or rule.lowest <= rule.default <= rule.highest


def test_every_limit_has_a_key_of_the_configuration() -> None:
    keys = {f"limits.{key}" for key in Limits.model_fields} | set(Config.model_fields)
    assert {rule.setting for rule in RULES.values()} <= keys
    assert {f"limits.{key}" for key in Limits.model_fields} <= {rule.setting for rule in RULES.values()}


def test_every_quota_has_a_key_of_the_configuration() -> None:
    keys = {f"quotas.{key}" for key in Quotas.model_fields} | set(Config.model_fields)
    assert {rule.key for rule in QUOTA_RULES} <= keys
    assert {f"quotas.{key}" for key in Quotas.model_fields} <= {rule.key for rule in QUOTA_RULES}
