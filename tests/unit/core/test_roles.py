"""Which granted roles count: Table 8-1 and its dependencies."""

import pytest

from imsd.core.roles import ROLES, effective_roles, missing_roles

CHAIN = ("Tenant Administrator", "IMS Administrator", "Server Administrator")


def granted(**of_projects: tuple[str, ...]) -> dict[str, frozenset[str]]:
    return {("*" if key == "every" else key): frozenset(names) for key, names in of_projects.items()}


def test_the_roles_are_those_of_the_tables_and_one_of_ours() -> None:
    assert {name: (role.source, role.depends_on) for name, role in ROLES.items()} == {
        "IMS Administrator": ("Table 8-1", ("Tenant Administrator",)),
        "IMS FullAccess": ("Table 8-2", ()),
        "IMS Operator": ("", ()),
        "IMS ReadOnlyAccess": ("Table 8-2", ()),
        "KMS Administrator": ("contract §12.1", ()),
        "Server Administrator": ("Table 8-1", ("IMS Administrator",)),
        "Tenant Administrator": ("Table 8-1", ()),
    }
    assert list(ROLES) == sorted(ROLES)


@pytest.mark.parametrize(
    ("names", "counting", "ignored"),
    [
        ((), set(), {}),
        (("IMS FullAccess",), {"IMS FullAccess"}, {}),
        (CHAIN, set(CHAIN), {}),
        (CHAIN[:2], set(CHAIN[:2]), {}),
        (("IMS Administrator",), set(), {"IMS Administrator": ("Tenant Administrator",)}),
        (
            ("Server Administrator",),
            set(),
            {"Server Administrator": ("IMS Administrator", "Tenant Administrator")},
        ),
        (
            ("Server Administrator", "Tenant Administrator"),
            {"Tenant Administrator"},
            {"Server Administrator": ("IMS Administrator",)},
        ),
        (
            ("Server Administrator", "IMS Administrator"),
            set(),
            {
                "Server Administrator": ("Tenant Administrator",),
                "IMS Administrator": ("Tenant Administrator",),
            },
        ),
        (("ims fullaccess", "IMS FullAccess "), set(), {"ims fullaccess": (), "IMS FullAccess ": ()}),
    ],
)
def test_a_role_counts_with_all_that_it_depends_on(
    names: tuple[str, ...], counting: set[str], ignored: dict[str, tuple[str, ...]]
) -> None:
    assert effective_roles(granted(blue=names), "blue") == (frozenset(counting), ignored)


def test_roles_of_another_project_do_not_count() -> None:
    assert effective_roles(granted(green=CHAIN), "blue") == (frozenset(), {})


def test_a_dependency_in_another_project_is_missing() -> None:
    roles = granted(blue=("IMS Administrator",), green=("Tenant Administrator",))
    assert effective_roles(roles, "blue") == (
        frozenset(),
        {"IMS Administrator": ("Tenant Administrator",)},
    )


def test_what_is_granted_in_every_project_counts_in_each_as_a_dependency_too() -> None:
    roles = granted(every=("Tenant Administrator",), blue=("IMS Administrator",))
    assert effective_roles(roles, "blue")[0] == {"Tenant Administrator", "IMS Administrator"}
    assert effective_roles(roles, "green")[0] == {"Tenant Administrator"}


def test_what_is_granted_in_one_project_does_not_count_for_all() -> None:
    assert effective_roles(granted(blue=("IMS Operator",)), "*")[0] == frozenset()


def test_missing_roles_of_a_role_that_nobody_knows_are_none() -> None:
    assert missing_roles("Emperor", ()) == ()
