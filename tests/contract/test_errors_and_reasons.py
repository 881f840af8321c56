"""The errors: few classes, one table to gRPC, and no reason that the wire contract does not know."""

from __future__ import annotations

import ast

from imsd.contract import ImsError, os_errors
from imsd.grpc_server.error_mapping import CODES
from imsd.v1.error_reason_pb2 import ErrorReason
from tests.contract.source_tree import modules

PREFIX = "ERROR_REASON_"

REASONS = {name.removeprefix(PREFIX) for name in ErrorReason.keys()}  # noqa: SIM118  # no mapping

# Who fails a job or shows an error names its reason in one of these arguments.
ARGUMENTS = ("reason", "default_reason", "error_reason")

SHIPPED = modules("imsd", "plugins", "clients")


def named_reasons(tree: ast.Module) -> set[str]:
    """Every text that is given as a reason."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ARGUMENTS:
            found |= texts(node.value)
        elif isinstance(node, ast.Assign):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            found |= texts(node.value) if names & set(ARGUMENTS) else set()
    return found


def texts(value: ast.expr) -> set[str]:
    """Every text of an expression but the empty one."""
    constants = [node.value for node in ast.walk(value) if isinstance(node, ast.Constant)]
    return {constant for constant in constants if isinstance(constant, str) and constant}


def test_there_are_at_most_twelve_conditions() -> None:
    assert len(ImsError.__subclasses__()) <= 12
    assert not any(condition.__subclasses__() for condition in ImsError.__subclasses__())


def test_every_condition_has_its_status() -> None:
    assert set(CODES) == set(ImsError.__subclasses__())


def test_the_default_reason_of_every_condition_is_known() -> None:
    conditions: list[type[ImsError]] = [ImsError, *ImsError.__subclasses__()]
    assert {condition.default_reason for condition in conditions} <= REASONS


def test_every_reason_in_the_code_is_in_the_wire_contract() -> None:
    unknown = [(m.place, found) for m in SHIPPED if (found := named_reasons(m.tree) - REASONS)]
    assert unknown == []


def test_every_reason_of_the_system_table_is_known() -> None:
    for table in (os_errors.READING, os_errors.WRITING):
        assert {reason for _, reason in table.values()} <= REASONS


def test_a_reason_that_does_not_exist_is_seen() -> None:
    tree = ast.parse('raise NotFound("x", reason="NOT_THERE" if a else "NOT_FOUND")\nreason = "ODD"')
    assert named_reasons(tree) - REASONS == {"NOT_THERE", "ODD"}


def test_most_reasons_are_found_in_the_code() -> None:
    used = set().union(*(named_reasons(module.tree) for module in SHIPPED))
    assert len(used & REASONS) >= 30
