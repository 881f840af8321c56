"""The examples of the documentation do what it says of them, all loaded together."""

from __future__ import annotations

import re

import pytest

from imsd.core.caller import Caller, CallerKind
from imsd.core.policies.decisions import Decision, Policies
from imsd.core.policies.loading import SHIPPED, load_policies
from imsd.core.roles import ROLES
from imsd.metadata.records import ImageRecord
from tests.unit.policies.policy_world import LOCAL, ask, image, user, written

PAGE = (SHIPPED / "README.md").read_text()
EXAMPLES = re.findall(r"```cedar\n(.*?)```", PAGE, re.DOTALL)

FULL, OPERATOR = "IMS FullAccess", "IMS Operator"
TESTER = user("tess", groups=frozenset({"testers"}))
CHIEF = user("chief", OPERATOR, project_id="*")
BUILD = "spiffe://example.org/build/7"


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Policies:
    return Policies(load_policies(written(tmp_path_factory.mktemp("p"), "\n".join(EXAMPLES))))


def builder(name: str = BUILD) -> Caller:
    return Caller(kind=CallerKind.CERTIFICATE, id=name, peer="ipv4:192.0.2.7:5")


def staged(stage: str) -> ImageRecord:
    return image(tags={"stage": stage})


@pytest.mark.parametrize(
    ("caller", "action", "about", "decision"),
    [
        (user("a", FULL), "ims:images:delete", staged("live"), Decision(False, ("live-stays",))),
        (LOCAL, "ims:images:delete", staged("live"), Decision(False, ("live-stays",))),
        (user("a", FULL), "ims:images:delete", staged("test"), Decision(True, ("full-access",))),
        (
            user("a", FULL),
            "ims:images:export",
            image(project_id="vendor"),
            Decision(False, ("export-only-what-is-ours",)),
        ),
        (user("a", FULL), "ims:images:export", image(), Decision(True, ("full-access",))),
        (TESTER, "ims:images:get", staged("test"), Decision(True, ("testers",))),
        (TESTER, "ims:images:export", staged("test"), Decision(True, ("testers",))),
        (TESTER, "ims:images:update", staged("test"), Decision(False)),
        (TESTER, "ims:images:get", staged("live"), Decision(False)),
        (TESTER, "ims:images:get", None, Decision(False)),
        (TESTER, "ims:images:list", None, Decision(False)),
        (
            user("r", "IMS ReadOnlyAccess"),
            "ims:traces:list",
            None,
            Decision(True, ("readers-see-traces",)),
        ),
        (user("r"), "ims:traces:list", None, Decision(False)),
    ],
)
def test_an_example_does_what_is_said(
    rules: Policies, caller: Caller, action: str, about: ImageRecord | None, decision: Decision
) -> None:
    assert ask(rules, caller, action, about=about) == decision


@pytest.mark.parametrize(
    ("peer", "is_allowed"), [("ipv4:192.0.2.7:5", True), ("ipv4:198.51.100.1:5", False), ("unix:", True)]
)
def test_operators_work_from_the_office(rules: Policies, peer: str, is_allowed: bool) -> None:
    chief = user("chief", OPERATOR, project_id="*", peer=peer)
    assert ask(rules, chief, "ims:quotas:set").is_allowed is is_allowed
    assert ask(rules, chief, "ims:tokens:list", "*", None).is_allowed is is_allowed


def test_builders_make_images_in_one_project(rules: Policies) -> None:
    create = "ims:serverImages:create"
    assert ask(rules, builder(), create, "golden") == Decision(True, ("builders",))
    assert ask(rules, builder(), create, "blue") == Decision(False)
    assert ask(rules, builder("spiffe://example.org/web/7"), create, "golden") == Decision(False)
    by_name = user(BUILD)
    assert ask(rules, by_name, create, "golden") == Decision(False)  # a user of this name is no certificate


def test_what_is_published_is_done(rules: Policies) -> None:
    published = image(is_published=True)
    holder = Caller(kind=CallerKind.CERTIFICATE, id="x", roles={"blue": frozenset({FULL})})
    update = "ims:images:update"
    assert ask(rules, holder, update, about=published) == Decision(False, ("published-is-done",))
    assert ask(rules, holder, update, about=image()).is_allowed
    assert ask(rules, user("a", FULL), update, about=published).is_allowed


def test_every_example_is_loaded() -> None:
    named = re.findall(r'@id\("([\w-]+)"\)', "\n".join(EXAMPLES))
    assert len(named) == 7


def test_the_page_names_what_is_shipped() -> None:
    for policy in load_policies().texts:
        assert f"`{policy.id}`" in PAGE
    for role in ROLES.values():
        row = re.search(rf"^\| {role.name} \|.*\| (.*) \|$", PAGE, re.MULTILINE)
        assert row is not None, role.name
        assert all(needed in row[1] for needed in role.depends_on)
        assert bool(role.depends_on) is (row[1] != "–")
