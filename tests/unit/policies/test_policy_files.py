"""What is wrong with a file of policies is told with the file and the line, before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from imsd.contract import InvalidRequest
from imsd.core.policies.loading import MAX_FILE_BYTES, MAX_POLICIES, SHIPPED, load_policies
from imsd.core.policies.statements import Statement, split_statements
from tests.unit.policies.policy_world import written

DELETE = 'action == Action::"ims:images:delete"'


def refusal(folder: Path, text: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        load_policies(written(folder, text))
    assert caught.value.reason == "INVALID_CONFIGURATION"
    assert caught.value.field == "policy_dir"
    return caught.value


def test_a_file_is_cut_at_semicolons_that_end_a_policy() -> None:
    text = '// one; "two\n@id("a;b")\npermit (x); // c;\n\n  forbid (y // "\n);\n\npermit "\\";'
    assert list(split_statements(text)) == [
        Statement('@id("a;b")\npermit (x);', 2),
        Statement('forbid (y // "\n);', 5),
        Statement('permit "\\";', 8),
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "// nothing; here", "   "])
def test_a_file_may_hold_nothing(text: str) -> None:
    assert list(split_statements(text)) == []


def test_the_policies_of_the_service_stand_in_its_files() -> None:
    loaded = load_policies()
    assert [(policy.id, policy.path.name) for policy in loaded.texts] == [
        ("open", "10-everybody.cedar"),
        ("oneself", "10-everybody.cedar"),
        ("full-access", "20-tables.cedar"),
        ("read-only-access", "20-tables.cedar"),
        ("ims-administrator", "20-tables.cedar"),
        ("server-administrator", "20-tables.cedar"),
        ("kms-administrator", "20-tables.cedar"),
        ("operator", "30-operators.cedar"),
        ("local-administrator", "30-operators.cedar"),
    ]
    assert all(policy.is_shipped for policy in loaded.texts)
    assert loaded.image_actions == frozenset()  # so that no call looks an image up to be decided


def test_files_of_an_operator_come_after_in_the_order_of_their_names(tmp_path: Path) -> None:
    written(tmp_path / "p", f'@id("b") forbid (principal, {DELETE}, resource);', "20.cedar")
    written(tmp_path / "p", f'@id("a") forbid (principal, {DELETE}, resource);', "10.cedar")
    written(tmp_path / "p", "this is no policy", ".10.cedar")
    written(tmp_path / "p", "this is no policy", "10.cedar~")
    own = [policy for policy in load_policies(tmp_path / "p").texts if not policy.is_shipped]
    assert [(policy.id, policy.effect, policy.line) for policy in own] == [
        ("a", "forbid", 1),
        ("b", "forbid", 1),
    ]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            f'@id("x") permit (principal, {DELETE} resource);',
            "this is no policy: unexpected token `resource`",
        ),
        (f'@id("x") permit (principal, {DELETE}, resource)', "this is no policy: unexpected end of input"),
        (f"permit (principal, {DELETE}, resource);", "a policy must be named"),
        (f'@id("") permit (principal, {DELETE}, resource);', "a policy must be named"),
        (f'@id("a b") permit (principal, {DELETE}, resource);', "a policy must be named"),
        (f'@id("open") permit (principal, {DELETE}, resource);', "there is another policy 'open'"),
        (
            f'@id("x") permit (principal == ?principal, {DELETE}, resource);',
            "?principal and ?resource are for",
        ),
        (
            '@id("x") permit (principal, action == Action::"ims:images:erase", resource);',
            "unrecognized action",
        ),
        (f'@id("x") permit (principal in Role::"Owner", {DELETE}, resource);', 'entity `Role::"Owner"`'),
        (
            f'@id("x") permit (principal in Team::"ops", {DELETE}, resource);',
            "unrecognized entity type `Team`",
        ),
        (
            f'@id("x") forbid (principal, {DELETE}, resource is Image) when {{ resource.nam == "x" }};',
            "attribute `nam` on entity type `Image` not found",
        ),
        (
            f'@id("x") forbid (principal, {DELETE}, resource is Image) when {{ resource.name == 1 }};',
            "the types Long and String are not compatible",
        ),
        (
            f'@id("x") forbid (principal, {DELETE}, resource is Image) '
            'when { resource.getTag("stage") == "live" };',
            'unable to guarantee safety of access to tag `"stage"`',
        ),
        (
            f'@id("x") forbid (principal, {DELETE}, resource) when {{ context.time == "x" }};',
            "attribute `time` in context",
        ),
        (
            f'@id("x") forbid (principal, {DELETE}, resource) '
            'when { context.address.isInRange(ip("192.0.2.0/24")) };',
            "unable to guarantee safety of access to optional attribute `address`",
        ),
    ],
)
def test_what_is_wrong_with_a_policy_is_told_with_its_place(tmp_path: Path, policy: str, said: str) -> None:
    text = f'// mine\n@id("fine")\nforbid (principal, {DELETE}, resource);\n\n{policy}\n'
    error = refusal(tmp_path / "p", text)
    assert error.message.startswith(f"{tmp_path}/p/50-own.cedar, line 5: "), error.message
    assert said in error.message


@pytest.mark.parametrize(
    "head",
    [
        'principal, action == Action::"ims:images:list", resource is Image',
        'principal, action in [Action::"ims:images:get", Action::"ims:images:list"], resource is Image',
        'principal, action in Action::"ims:query", resource is Image',
        "principal, action, resource is Image",
        f'principal, action, resource == Image::"{0:032x}"',
        'principal, action, resource is Image in Project::"blue"',
    ],
)
def test_a_policy_on_lists_does_not_look_at_images(tmp_path: Path, head: str) -> None:
    error = refusal(tmp_path / "p", f'@id("x") forbid ({head});')
    assert "looks at images" in error.message
    assert "decided once for a project" in error.hint


@pytest.mark.parametrize(
    "condition",
    [
        'resource is Image && resource.name == "x"',
        'resource is Image && resource.hasTag("x") && resource.getTag("x") == "y"',
        'if resource is Image then resource.name == "x" else false',
        'resource has name && resource.name == "x"',
        f'resource == Image::"{0:032x}"',
    ],
)
@pytest.mark.parametrize("clause", ["when", "unless"])
def test_nor_does_it_in_its_conditions(tmp_path: Path, condition: str, clause: str) -> None:
    head = 'principal, action == Action::"ims:images:list", resource'
    error = refusal(tmp_path / "p", f'@id("x") forbid ({head}) {clause} {{ {condition} }};')
    assert "looks at images" in error.message


def test_a_policy_on_lists_may_look_at_the_project_and_the_caller(tmp_path: Path) -> None:
    text = (
        '@id("x") forbid (principal, action == Action::"ims:images:list", resource in Project::"blue")'
        'when { principal is User && principal.id like "guest-*" };'
    )
    assert load_policies(written(tmp_path / "p", text)).texts[-1].id == "x"


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"none: it cannot be read: No such file"):
        load_policies(tmp_path / "none")


def test_a_name_that_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "p" / "x.cedar").mkdir(parents=True)
    with pytest.raises(InvalidRequest, match=r"x\.cedar: it is no file"):
        load_policies(tmp_path / "p")


def test_a_file_that_is_no_text_is_told_with_its_line(tmp_path: Path) -> None:
    written(tmp_path / "p", "")
    (tmp_path / "p" / "50-own.cedar").write_bytes(b"// a\n// b\n\xff")
    with pytest.raises(InvalidRequest, match="line 3: this is not UTF-8"):
        load_policies(tmp_path / "p")


def test_files_and_their_number_of_policies_are_bounded(tmp_path: Path) -> None:
    assert "more than" in refusal(tmp_path / "p", "/" * (MAX_FILE_BYTES + 1)).message
    many = "\n".join(f'@id("x{n}") forbid (principal, {DELETE}, resource);' for n in range(MAX_POLICIES))
    assert f"more than {MAX_POLICIES} policies" in refusal(tmp_path / "p", many).message


def test_a_policy_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    deep = "!" * 5 + "(" * 3000 + "true" + ")" * 3000
    error = refusal(tmp_path / "p", f'@id("x") permit (principal, {DELETE}, resource) when {{ {deep} }};')
    assert "line 1" in error.message


def test_the_shipped_folder_is_where_its_files_are() -> None:
    assert {path.name for path in SHIPPED.glob("*.cedar*")} == {
        "10-everybody.cedar",
        "20-tables.cedar",
        "30-operators.cedar",
        "imsd.cedarschema",
    }
