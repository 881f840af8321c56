"""The checks of the shipped suites report like tests."""

import pytest

pytest.register_assert_rewrite(
    "imsd.testing.key_service_suite",
    "imsd.testing.key_wrapping_checks",
    "imsd.testing.key_deletion_checks",
)
