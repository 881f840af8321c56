"""What an operator's policies decide, and that nothing a caller or an image is called changes a policy."""

from __future__ import annotations

from pathlib import Path

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsd.core.actions import ACTIONS, OPERATIONS
from imsd.core.caller import Caller, CallerKind
from imsd.core.policies.decisions import KEPT_ANSWERS, Decision, Policies
from imsd.core.policies.entities import address_of, project_uid, user_uid
from imsd.core.policies.inquiry import GROUPS, IMAGE_LIST
from imsd.core.policies.loading import SCHEMA_FILE, load_policies
from imsd.core.roles import ROLES
from imsd.metadata.records import Visibility
from tests.unit.policies.policy_world import LOCAL, ask, image, policies, user

SHIPPED = Policies(load_policies())
GET, DELETE, LIST = "ims:images:get", "ims:images:delete", "ims:images:list"
FULL = "IMS FullAccess"

LIVE = """
@id("live-stays")
forbid (principal, action == Action::"ims:images:delete", resource is Image)
when { resource.hasTag("stage") && resource.getTag("stage") == "live" };
"""


def test_nobody_may_anything_without_a_policy_that_permits_it() -> None:
    assert ask(SHIPPED, user(), GET) == Decision(False)
    assert ask(SHIPPED, user("alice", FULL), GET) == Decision(True, ("full-access",))
    assert ask(SHIPPED, user("alice", FULL), GET, "green") == Decision(False)


def test_an_action_that_nobody_knows_is_denied() -> None:
    assert ask(SHIPPED, LOCAL, "ims:images:erase") == Decision(False)


def test_a_tag_forbids_what_a_role_permits(tmp_path: Path) -> None:
    rules = policies(tmp_path / "p", LIVE)
    alice = user("alice", FULL)
    assert ask(rules, alice, DELETE, about=image(tags={"stage": "live"})) == Decision(False, ("live-stays",))
    assert ask(rules, alice, DELETE, about=image(tags={"stage": "test"})).is_allowed
    assert ask(rules, alice, DELETE, about=image()).is_allowed
    assert ask(rules, alice, GET, about=image(tags={"stage": "live"})).is_allowed


def test_what_is_forbidden_binds_the_local_administrator_too(tmp_path: Path) -> None:
    rules = policies(tmp_path / "p", LIVE)
    assert not ask(rules, LOCAL, DELETE, about=image(tags={"stage": "live"})).is_allowed


@pytest.mark.parametrize(
    ("condition", "is_forbidden"),
    [
        ("resource.is_protected", False),
        ("resource.is_published", False),
        ("resource.is_deprecated", False),
        ('resource.name like "we*"', True),
        ('resource.status == "active"', True),
        ('resource.visibility == "private"', True),
        ('resource.kind == "system_disk" && resource.server_kind == "virtual"', True),
        ('resource.disk_format == "" && resource.family == "" && resource.boot_mode == ""', True),
        ('resource.os_type == "" && resource.os_version == "" && resource.platform == ""', True),
        ('resource.architecture == "" && resource.origin_kind == ""', True),
        ('resource.enterprise_project_id == "0"', True),
        ("resource.virtual_size_bytes > 1099511627776", False),
        ('resource.owner == Project::"blue"', True),
        ("resource.owner == context.project", True),
        ('resource in Project::"green"', False),
        ('resource == Image::"11111111-2222-4333-8444-555555555555"', True),
        ('resource.id == "11111111-2222-4333-8444-555555555555"', True),
    ],
)
def test_a_policy_may_ask_for_everything_in_the_schema(
    tmp_path: Path, condition: str, is_forbidden: bool
) -> None:
    head = 'principal, action == Action::"ims:images:delete", resource is Image'
    rules = policies(tmp_path / "p", f'@id("x") forbid ({head}) when {{ {condition} }};')
    assert ask(rules, user("alice", FULL), DELETE, about=image()).is_allowed is not is_forbidden


@pytest.mark.parametrize(
    ("condition", "is_forbidden"),
    [
        ('principal in Group::"interns"', True),
        ('principal in Group::"staff"', False),
        ('principal == User::"alice"', True),
        ('principal is User && principal.id like "al*"', True),
        ('principal == Certificate::"alice"', False),
        ("principal is LocalAdministrator", False),
        ('principal in Role::"IMS ReadOnlyAccess"', False),
        ('context.authentication == "api_token"', True),
        ('context.authentication == "unix_socket"', False),
        ('context has address && context.address.isInRange(ip("192.0.2.0/24"))', True),
        ('context has address && context.address.isInRange(ip("10.0.0.0/8"))', False),
        ('context.project == Project::"blue"', True),
    ],
)
def test_a_policy_may_ask_who_calls_and_from_where(
    tmp_path: Path, condition: str, is_forbidden: bool
) -> None:
    rules = policies(tmp_path / "p", f'@id("x") forbid (principal, action, resource) when {{ {condition} }};')
    alice = user("alice", FULL, groups=frozenset({"interns", "others"}))
    assert ask(rules, alice, LIST).is_allowed is not is_forbidden


def test_a_group_may_be_permitted_without_a_role(tmp_path: Path) -> None:
    rules = policies(
        tmp_path / "p",
        '@id("x") permit (principal in Group::"qa", action == Action::"ims:images:get", resource);',
    )
    assert ask(rules, user(groups=frozenset({"qa"})), GET) == Decision(True, ("x",))
    assert not ask(rules, user(groups=frozenset({"qb"})), GET).is_allowed
    assert not ask(rules, user(groups=frozenset({"qa"})), DELETE).is_allowed


def test_a_public_image_of_another_project_is_its_owners(tmp_path: Path) -> None:
    rules = policies(
        tmp_path / "p",
        '@id("own-only") forbid (principal, action == Action::"ims:images:export", resource is Image)'
        " unless { resource.owner == context.project };",
    )
    theirs = image(project_id="vendor", visibility=Visibility.PUBLIC)
    assert not ask(rules, user("alice", FULL), "ims:images:export", about=theirs).is_allowed
    assert ask(rules, user("alice", FULL), "ims:images:export", about=image()).is_allowed


HOSTILE = [
    'alice", action, resource); permit (principal, action, resource); //',
    '"}], "parents": [{"type": "Role", "id": "IMS FullAccess"}], "x": [{"',
    'User::"root"',
    "\\",
    '"',
    "\n\r\t\x00",
    "{}[]()",
    "\u202e\u2028💾",
    "*",
    "__entity",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_makes_a_caller_more_than_it_is(text: str) -> None:
    mallory = user(text, groups=frozenset({text}), project_id=text)
    assert ask(SHIPPED, mallory, GET, "blue") == Decision(False)
    assert ask(SHIPPED, mallory, GET, text) == Decision(False)
    assert ask(SHIPPED, user(text, text), GET) == Decision(False)
    assert ask(SHIPPED, mallory, "ims:tokens:list", "*", user_uid(text)) == Decision(True, ("oneself",))
    assert ask(SHIPPED, mallory, "ims:tokens:list", "*", user_uid(text + " ")) == Decision(False)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_an_image_changes_a_decision(tmp_path: Path, text: str) -> None:
    rules = policies(tmp_path / "p", LIVE)
    hostile = image(name=text, family=text, os_version=text, platform=text, tags={"stage": text, text: text})
    assert ask(rules, user("alice", FULL), DELETE, about=hostile) == Decision(True, ("full-access",))
    assert ask(rules, user("bob"), DELETE, about=hostile) == Decision(False)
    live = image(name=text, tags={text: text, "stage": "live"})
    assert ask(rules, user("alice", FULL), DELETE, about=live) == Decision(False, ("live-stays",))


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=64))
def test_any_text_is_a_value(user_id: str, group: str, project_id: str) -> None:
    nobody = user(user_id, groups=frozenset({group}))
    assert ask(SHIPPED, nobody, DELETE, project_id) == Decision(False)
    assert ask(SHIPPED, nobody, DELETE, project_id, image(name=group)) == Decision(False)


def test_callers_of_one_name_and_several_kinds_are_several(tmp_path: Path) -> None:
    rules = policies(
        tmp_path / "p",
        '@id("x") permit (principal == User::"ci", action == Action::"ims:images:get", resource);',
    )
    kinds = {kind: ask(rules, Caller(kind=kind, id="ci"), GET).is_allowed for kind in CallerKind}
    assert kinds == {
        CallerKind.API_TOKEN: True,
        CallerKind.OIDC: True,
        CallerKind.CERTIFICATE: False,
        CallerKind.LOCAL_ADMINISTRATOR: True,  # as everything else
    }


def test_the_id_of_the_local_administrator_gives_a_user_nothing() -> None:
    assert ask(SHIPPED, user("local"), GET) == Decision(False)
    assert ask(SHIPPED, user("imsd"), GET) == Decision(False)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:7070", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:7070", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:7070", "2001:db8::1"),
        ("ipv6:[::ffff:192.0.2.1]:7070", "192.0.2.1"),
        ("ipv6:[fe80::1%25eth0]:7070", "fe80::1"),
        ("unix:", ""),
        ("unix:/run/imsd.sock", ""),
        ("ipv4:nonsense", ""),
        ("", ""),
    ],
)
def test_the_address_of_a_peer(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_a_peer_without_a_number_does_not_break_a_decision() -> None:
    assert ask(SHIPPED, user("alice", FULL, peer="ipv4:999.1.1.1:1"), GET).is_allowed


def test_only_policies_that_look_at_images_make_one_be_looked_up(tmp_path: Path) -> None:
    assert not any(SHIPPED.needs_image(action) for action in ACTIONS)
    rules = policies(tmp_path / "p", LIVE)
    assert [action for action in ACTIONS if rules.needs_image(action)] == [DELETE]
    wide = policies(tmp_path / "q", '@id("x") forbid (principal, action, resource in Project::"vendor");')
    assert wide.needs_image(GET)
    assert not wide.needs_image(LIST)


def test_answers_that_are_kept_are_bounded() -> None:
    rules = Policies(load_policies())
    for number in range(KEPT_ANSWERS + 10):
        ask(rules, user(f"user{number}"), GET)
    assert rules._kept.cache_info().currsize == KEPT_ANSWERS


def test_an_answer_is_kept_for_one_caller_only() -> None:
    rules = Policies(load_policies())
    assert ask(rules, user("alice", FULL), GET).is_allowed
    assert not ask(rules, user("alice"), GET).is_allowed
    assert not ask(rules, user("alice", FULL), GET, "green").is_allowed


def test_the_schema_knows_the_actions_and_roles_of_the_service() -> None:
    text = SCHEMA_FILE.read_text()
    schema = cedarpy.Schema.from_str(text)

    def fits(policy: str) -> bool:
        return bool(cedarpy.validate_policies(policy, schema))

    for action in ACTIONS:
        assert fits(f'permit (principal, action == Action::"{action}", resource);'), action
        is_about_images = fits(f'permit (principal, action == Action::"{action}", resource is Image);')
        assert is_about_images is (
            action.startswith("ims:images:") and action not in (IMAGE_LIST, "ims:images:create")
        )
        of_one_image = any(
            action in each.actions and each.id_field == "image_id" for each in OPERATIONS.values()
        )
        assert is_about_images or not of_one_image or action == IMAGE_LIST
    for group in GROUPS:
        assert fits(f'permit (principal, action in Action::"{group}", resource);')
    for role in ROLES:
        assert fits(f'permit (principal in Role::"{role}", action, resource);'), role
    assert text.count('"IMS') + text.count(' Administrator"') - 1 == len(ROLES)
    assert project_uid("x").to_json() == {"type": "Project", "id": "x"}
