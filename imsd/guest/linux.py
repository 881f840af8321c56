"""Which Linux a root holds, from os-release and the finer files beside it.

os-release is too coarse for a table of supported systems (Debian says 12, CentOS 7), and the oldest
systems in it have none. Sources: os-release(5), and the release files of the distributions as they ship
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .file_system import Tree
from .identity import Identity, program_architecture
from .os_release import parse_assignments, read_os_release

MAX_RELEASE_BYTES = 4096

Version = Callable[[Tree, Mapping[str, str]], str]


@dataclass(frozen=True, slots=True)
class Distribution:
    """``family``: in the catalogue, None when it has none. ``version``: how the catalogue would write it."""

    family: str | None
    version: Version


def _version_id(_: Tree, fields: Mapping[str, str]) -> str:
    return fields.get("VERSION_ID", "")


def _from_file(path: str, pattern: str) -> Version:
    """The groups of ``pattern`` in the first line of a file, joined by dots; else VERSION_ID."""
    compiled = re.compile(pattern)

    def version(tree: Tree, fields: Mapping[str, str]) -> str:
        match = compiled.search(_first_line(tree, path))
        if match is None:
            return _version_id(tree, fields)
        return ".".join(group for group in match.groups() if group)

    return version


def _debian(tree: Tree, fields: Mapping[str, str]) -> str:
    """12.15 is 12.15.0; testing and unstable have no number."""
    found = re.fullmatch(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", _first_line(tree, "/etc/debian_version"))
    if found is None:
        found = re.fullmatch(r"(\d+)()()", _version_id(tree, fields))
    return ".".join(part or "0" for part in found.groups()) if found else ""


def _suse(tree: Tree, fields: Mapping[str, str]) -> str:
    """12.4 is "12 SP4"."""
    major, _, pack = _version_id(tree, fields).partition(".")
    return f"{major} SP{pack}" if pack and pack != "0" else major


def _old_suse(tree: Tree, _: Mapping[str, str]) -> str:
    text = tree.read_text(_OLD_SUSE, MAX_RELEASE_BYTES) or ""
    fields = parse_assignments(text.replace(" = ", "="))
    major, pack = fields.get("VERSION", ""), fields.get("PATCHLEVEL", "0")
    return f"{major} SP{pack}" if pack != "0" else major


def _neokylin(tree: Tree, fields: Mapping[str, str]) -> str:
    """V7Update6 is 7.6; without an update it is V7."""
    line = _first_line(tree, "/etc/neokylin-release")
    text = f"{line} {fields.get('VERSION', '')} {_version_id(tree, fields)}"
    match = re.search(r"V(\d+)(?:\s*Update\s*(\d+))?", text)
    if match is None:
        return _version_id(tree, fields)
    return f"{match.group(1)}.{match.group(2)}" if match.group(2) else f"V{match.group(1)}"


_RELEASE = r"release (\d+)(?:\.(\d+))?"
_RED_HAT = Distribution("Red Hat", _from_file("/etc/redhat-release", _RELEASE))
_SUSE = Distribution("SUSE Linux Enterprise", _suse)
_OPENSUSE = Distribution("openSUSE", _version_id)

# By the ID of os-release, in lower case.
DISTRIBUTIONS: dict[str, Distribution] = {
    "debian": Distribution("Debian", _debian),
    "ubuntu": Distribution("Ubuntu", _version_id),
    "centos": Distribution("CentOS", _from_file("/etc/centos-release", _RELEASE)),
    "rhel": _RED_HAT,
    "redhat": _RED_HAT,
    "ol": Distribution("Oracle Linux", _from_file("/etc/oracle-release", _RELEASE)),
    "fedora": Distribution("Fedora", _version_id),
    "euleros": Distribution("EulerOS", _from_file("/etc/euleros-release", r"release (\d+)\.0 \(SP(\d+)")),
    "openeuler": Distribution("openEuler", _from_file("/etc/openEuler-release", r"release (\d+\.\d+)")),
    "sles": _SUSE,
    "sled": _SUSE,
    "sles_sap": _SUSE,
    "opensuse": _OPENSUSE,
    "opensuse-leap": _OPENSUSE,
    "coreos": Distribution("CoreOS", _version_id),
    "kylin": Distribution("Kylin", _from_file("/etc/kylin-release", r"release V?(\d+(?:\.\d+)?)")),
    "kylinsec": Distribution("KylinSec", _from_file("/etc/kylinsec-release", r"release V?(\d+(?:\.\d+)?)")),
    "neokylin": Distribution("NeoKylin", _neokylin),
    "uos": Distribution("UnionTech", _version_id),
}
_OTHER = Distribution(None, _version_id)

_OLD_SUSE = "/etc/SuSE-release"
# Systems without os-release: the file that names them, how it begins, their ID, and their rule.
_OLD_RELEASES = (
    ("/etc/centos-release", "CentOS", "centos", DISTRIBUTIONS["centos"]),
    ("/etc/oracle-release", "Oracle", "ol", DISTRIBUTIONS["ol"]),
    ("/etc/euleros-release", "EulerOS", "euleros", DISTRIBUTIONS["euleros"]),
    ("/etc/neokylin-release", "NeoKylin", "neokylin", DISTRIBUTIONS["neokylin"]),
    ("/etc/kylin-release", "Kylin", "kylin", DISTRIBUTIONS["kylin"]),
    (
        "/etc/fedora-release",
        "Fedora",
        "fedora",
        Distribution("Fedora", _from_file("/etc/fedora-release", _RELEASE)),
    ),
    ("/etc/redhat-release", "Red Hat", "rhel", _RED_HAT),
    ("/etc/redhat-release", "CentOS", "centos", Distribution("CentOS", _RED_HAT.version)),
    (_OLD_SUSE, "SUSE Linux Enterprise", "sles", Distribution("SUSE Linux Enterprise", _old_suse)),
    (_OLD_SUSE, "openSUSE", "opensuse", Distribution("openSUSE", _old_suse)),
    ("/etc/debian_version", "", "debian", DISTRIBUTIONS["debian"]),
)
# A root that none of these files names is still one when it has these.
_ROOT_MARKS = ("/etc/fstab", "/sbin/init", "/lib/modules", "/etc/passwd")


def identify_linux(tree: Tree) -> Identity | None:
    """The Linux in ``tree``; None when it is no root of one. Raises `GuestUnreadable`."""
    fields = read_os_release(tree)
    if fields:
        return _from_os_release(tree, fields)
    return _from_old_release(tree) or _unknown(tree)


def _from_os_release(tree: Tree, fields: Mapping[str, str]) -> Identity:
    distribution = fields.get("ID", "linux").casefold()
    known = DISTRIBUTIONS.get(distribution, _OTHER)
    name = fields.get("PRETTY_NAME") or fields.get("NAME", "")
    if distribution == "centos" and "Stream" in f"{name} {fields.get('NAME')}":
        known = _OTHER  # what CentOS is next, not a release of it
    return _identity(tree, distribution, name, known, fields)


def _from_old_release(tree: Tree) -> Identity | None:
    for path, beginning, distribution, known in _OLD_RELEASES:
        line = _first_line(tree, path)
        if line and line.startswith(beginning):
            name = f"Debian GNU/Linux {line}" if distribution == "debian" else line
            return _identity(tree, distribution, name, known, {}, path)
    return None


def _identity(
    tree: Tree,
    distribution: str,
    name: str,
    known: Distribution,
    fields: Mapping[str, str],
    source: str = "os-release",
) -> Identity:
    listed = known.version(tree, fields)
    version = _first_line(tree, "/etc/debian_version") if distribution == "debian" else listed
    architecture, program = program_architecture(tree)
    evidence = [f"system: {source}", *([f"architecture: {program}"] if program else [])]
    return Identity(
        "Linux", distribution, name, version or listed, known.family, listed, architecture, tuple(evidence)
    )


def _unknown(tree: Tree) -> Identity | None:
    marks = [mark for mark in _ROOT_MARKS if tree.find(mark)]
    if len(marks) < 3:
        return None
    architecture, program = program_architecture(tree)
    evidence = (f"system: {', '.join(marks)}", f"architecture: {program}")
    return Identity("Linux", "", "", "", None, "", architecture, evidence)


def _first_line(tree: Tree, path: str) -> str:
    lines = (tree.read_text(path, MAX_RELEASE_BYTES) or "").strip().splitlines()
    return lines[0].strip() if lines else ""
