"""How a Linux root configures its network: whether some interface asks by DHCP, and what ties it to one
machine.

Sources: interfaces(5), netplan's reference, NetworkManager's nm-settings-keyfile(5), systemd.network(5),
the ifcfg files of Red Hat and SUSE, udev's persistent names, rc.conf(5) of FreeBSD. The files are read
line by line: no expression in them is evaluated. No pattern goes beyond a line, or back over more than
a few characters: the time it takes grows with the file, not with its square.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .file_system import Kind, Tree
from .os_release import parse_assignments

MAX_FILES = 64
MAX_BYTES = 256 << 10
_MAC = re.compile(r"\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b", re.IGNORECASE)
_YES = ("yes", "true", "ipv4", "on", "1")


@dataclass(slots=True)
class NetworkFacts:
    """The files that ask for an address by DHCP, that set one, and that name a MAC address."""

    dhcp: list[str] = field(default_factory=list)
    static: list[str] = field(default_factory=list)
    fixed_mac: list[str] = field(default_factory=list)

    @property
    def is_configured(self) -> bool:
        return bool(self.dhcp or self.static)


def network_facts(tree: Tree) -> NetworkFacts:
    """Raises `GuestUnreadable`."""
    facts = NetworkFacts()
    for pattern, judge in _SOURCES.items():
        for path, text in _files(tree, pattern):
            judge(facts, path, _without_comments(text))
    return facts


def connects_by_itself(tree: Tree) -> bool:
    """Whether NetworkManager is there: it asks by DHCP unless told. Raises `GuestUnreadable`."""
    if tree.find("/usr/sbin/NetworkManager") is None:
        return False
    texts = [text for _, text in _files(tree, "/etc/NetworkManager/NetworkManager.conf")]
    texts += [text for _, text in _files(tree, "/etc/NetworkManager/conf.d/*.conf")]
    return not any(re.search(r"^[ \t]*no-auto-default[ \t]*=[ \t]*\*", text, re.MULTILINE) for text in texts)


def _files(tree: Tree, pattern: str) -> Iterator[tuple[str, str]]:
    directory, _, name_pattern = pattern.rpartition("/")
    if "*" not in name_pattern:
        text = tree.read_text(pattern, MAX_BYTES)
        if text is not None:
            yield pattern, text
        return
    matches = re.compile(re.escape(name_pattern).replace(r"\*", ".*"))
    names = sorted(
        name
        for name, node in tree.list(directory)
        if matches.fullmatch(name) and node.kind is not Kind.DIRECTORY
    )
    for name in names[:MAX_FILES]:
        text = tree.read_text(f"{directory}/{name}", MAX_BYTES)
        if text is not None:
            yield f"{directory}/{name}", text


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", ";")))


def _interfaces(facts: NetworkFacts, path: str, text: str) -> None:
    if re.search(r"^[ \t]*iface[ \t]+\S+[ \t]+inet6?[ \t]+(?:dhcp|auto)\b", text, re.MULTILINE):
        facts.dhcp.append(path)
    if re.search(r"^[ \t]*iface[ \t]+\S+[ \t]+inet[ \t]+static\b", text, re.MULTILINE):
        facts.static.append(path)
    if re.search(r"^[ \t]*hwaddress\b", text, re.MULTILINE):
        facts.fixed_mac.append(path)


def _netplan(facts: NetworkFacts, path: str, text: str) -> None:
    if re.search(r"\bdhcp[46]\"?[ \t]*:[ \t]*(?:yes|true|on)\b", text, re.IGNORECASE):
        facts.dhcp.append(path)
    if re.search(
        r"^[ \t]*\"?addresses\"?[ \t]*:[ \t]*(?:\[[ \t]*[\"\d]|$)", text, re.MULTILINE
    ) and not _only_nameservers(text):
        facts.static.append(path)
    if re.search(r"\bmacaddress\"?[ \t]*:", text) and _MAC.search(text):
        facts.fixed_mac.append(path)


def _only_nameservers(text: str) -> bool:
    """Whether no address has a length of its prefix: name servers have none, interfaces must."""
    return re.search(r"[\da-f][.:][\da-f:.]{1,45}/\d", text, re.IGNORECASE) is None


def _keyfile(facts: NetworkFacts, path: str, text: str) -> None:
    section = ""
    for line in text.splitlines():
        if line.lstrip().startswith("["):
            section = line.strip(" []\t")
        key, _, value = (part.strip() for part in line.partition("="))
        if section == "ipv4" and key == "method":
            {"auto": facts.dhcp, "manual": facts.static}.get(value, []).append(path)
        if section in ("ethernet", "802-3-ethernet") and key == "mac-address" and _MAC.search(value):
            facts.fixed_mac.append(path)


def _networkd(facts: NetworkFacts, path: str, text: str) -> None:
    fields = {name.casefold(): value for name, value in parse_assignments(text).items()}
    if fields.get("name", "") in ("lo", "docker0") or fields.get("type", "") == "loopback":
        return
    if fields.get("dhcp", "").casefold() in _YES:
        facts.dhcp.append(path)
    elif fields.get("address"):
        facts.static.append(path)
    if fields.get("macaddress") or fields.get("permanentmacaddress"):
        facts.fixed_mac.append(path)


def _link(facts: NetworkFacts, path: str, text: str) -> None:
    if re.search(
        r"^[ \t]*(?:Permanent)?MACAddress[ \t]*=[ \t]*[0-9a-f]{2}[:-]", text, re.MULTILINE | re.IGNORECASE
    ):
        facts.fixed_mac.append(path)


def _ifcfg(facts: NetworkFacts, path: str, text: str) -> None:
    if path.endswith(("ifcfg-lo", ".bak", ".rpmsave", ".old", "~")):
        return
    fields = {name.upper(): value.casefold() for name, value in parse_assignments(text).items()}
    if fields.get("BOOTPROTO", "").startswith(("dhcp", "bootp", "auto")):
        facts.dhcp.append(path)
    elif any(name.startswith("IPADDR") and value for name, value in fields.items()):
        facts.static.append(path)
    if fields.get("HWADDR"):
        facts.fixed_mac.append(path)


def _persistent_names(facts: NetworkFacts, path: str, text: str) -> None:
    if "NAME=" in text and _MAC.search(text):
        facts.fixed_mac.append(path)


def _rc_conf(facts: NetworkFacts, path: str, text: str) -> None:
    for name, value in parse_assignments(text).items():
        if name.startswith("ifconfig_"):
            (facts.dhcp if "DHCP" in value.upper() else facts.static).append(path)


_SOURCES: dict[str, Callable[[NetworkFacts, str, str], None]] = {
    "/etc/network/interfaces": _interfaces,
    "/etc/network/interfaces.d/*": _interfaces,
    "/etc/netplan/*.yaml": _netplan,
    "/etc/NetworkManager/system-connections/*": _keyfile,
    "/etc/systemd/network/*.network": _networkd,
    "/etc/systemd/network/*.link": _link,
    "/etc/sysconfig/network-scripts/ifcfg-*": _ifcfg,
    "/etc/sysconfig/network/ifcfg-*": _ifcfg,
    "/etc/udev/rules.d/70-persistent-net.rules": _persistent_names,
    "/etc/rc.conf": _rc_conf,
}
