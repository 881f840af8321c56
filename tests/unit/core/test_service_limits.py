"""The limits as data."""

from __future__ import annotations

from imsd.config import Config
from imsd.config_limits import Limits, Quotas
from imsd.core.limit_list import limits_in_force
from imsd.core.quota_rules import RULES as QUOTA_RULES
from imsd.core.runtime import Runtime
from imsd.core.service_limits import GIB, RULES, TIB


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


def test_the_list_of_limits_is_in_order(runtime: Runtime) -> None:
    found = [rule for rule, _ in limits_in_force(runtime.limits)]
    assert len({rule.name for rule in found}) == len(found)
    for rule in found:
        assert rule.summary.endswith(".")
        assert rule.unit


# Each number of the seed's chapter 5, by its row; disks in GB, files in bytes, memory in MB.
SEED_NUMBERS = {
    "Table 5-1, Disk capacity": {1024},
    "Table 5-2, Importing a data disk image from an external image file": {40, 2048},
    "Table 5-2, Image size": {128 * GIB, TIB},
    "Table 5-3, Maximum number of tenants an image can be shared with": {128, 10},
    "Table 5-4, Maximum size of an image": {128 * GIB},
    "Table 5-4, Maximum number of concurrent replication tasks per tenant": {5},
    "Table 5-5, Maximum size of an exported image": {128 * GIB, TIB},
    "Table 5-6, Number of cloud servers that can be concurrently created using a system disk image": {100},
    "Table 5-6, Maximum number of tags that can be added to a private image": {10},
    "Other Constraints, 32-bit OS": {4096},
}


def test_every_number_of_the_tables_is_in_the_list_with_its_row(runtime: Runtime) -> None:
    """But for those of Table 5-1 that are a quota and a key of the configuration."""
    found: dict[str, set[int]] = {row: set() for row in SEED_NUMBERS}
    for rule, value in limits_in_force(runtime.limits):
        found.setdefault(rule.source, set()).add(rule.default or value)
    assert {row: found[row] for row in SEED_NUMBERS} == SEED_NUMBERS


def test_every_quota_has_a_key_of_the_configuration() -> None:
    keys = {f"quotas.{key}" for key in Quotas.model_fields} | set(Config.model_fields)
    assert {rule.key for rule in QUOTA_RULES} <= keys
    assert {f"quotas.{key}" for key in Quotas.model_fields} <= {rule.key for rule in QUOTA_RULES}
