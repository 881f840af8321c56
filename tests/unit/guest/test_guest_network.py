"""How each system configures its network: by DHCP, with an address, or bound to one machine."""

from __future__ import annotations

import pytest

from imsd.guest.network import MAX_BYTES, connects_by_itself, network_facts
from tests.unit.guest.memory_tree import Paths, tree

NETPLAN = "/etc/netplan/50-cloud-init.yaml"
KEYFILE = "/etc/NetworkManager/system-connections/eth0.nmconnection"
NETWORKD = "/etc/systemd/network/10-eth.network"
RED_HAT = "/etc/sysconfig/network-scripts/ifcfg-eth0"
SUSE = "/etc/sysconfig/network/ifcfg-eth0"
RULES = "/etc/udev/rules.d/70-persistent-net.rules"

CASES: list[tuple[str, str, str]] = [
    ("/etc/network/interfaces", "iface eth0 inet dhcp\n", "dhcp"),
    ("/etc/network/interfaces", "allow-hotplug eth0\niface eth0 inet6 auto\n", "dhcp"),
    ("/etc/network/interfaces.d/eth0", "iface eth0 inet static\n  address 10.0.0.2\n", "static"),
    ("/etc/network/interfaces", "iface lo inet loopback\niface x inet manual\n", ""),
    ("/etc/network/interfaces", "iface eth0 inet dhcp\nhwaddress ether 52:54:00:12:34:56\n", "dhcp mac"),
    (NETPLAN, "network:\n  ethernets:\n    ens3:\n      dhcp4: true\n", "dhcp"),
    (NETPLAN, "network: {ethernets: {ens3: {dhcp6: yes}}}\n", "dhcp"),
    (NETPLAN, "      addresses:\n      - 10.0.0.5/24\n", "static"),
    (NETPLAN, '      addresses: ["10.0.0.5/24"]\n', "static"),
    (NETPLAN, "      dhcp4: true\n      nameservers:\n        addresses: [8.8.8.8]\n", "dhcp"),
    (NETPLAN, "      dhcp4: false\n", ""),
    (NETPLAN, "      dhcp4: true\n      match:\n        macaddress: 52:54:00:12:34:56\n", "dhcp mac"),
    (KEYFILE, "[connection]\nid=x\n[ipv4]\nmethod=auto\n[ipv6]\nmethod=manual\n", "dhcp"),
    (KEYFILE, "[ipv4]\nmethod=manual\naddress1=10.0.0.5/24\n", "static"),
    (KEYFILE, "[ethernet]\nmac-address=52:54:00:12:34:56\n[ipv4]\nmethod=auto\n", "dhcp mac"),
    (KEYFILE, "[ipv6]\nmethod=auto\n", ""),
    (NETWORKD, "[Match]\nName=en*\n[Network]\nDHCP=yes\n", "dhcp"),
    (NETWORKD, "[Match]\nName=en*\n[Network]\nDHCP=ipv4\n", "dhcp"),
    (NETWORKD, "[Network]\nAddress=10.0.0.5/24\n", "static"),
    (NETWORKD, "[Match]\nMACAddress=52:54:00:12:34:56\n[Network]\nDHCP=true\n", "dhcp mac"),
    (NETWORKD, "[Match]\nName=docker0\n[Network]\nAddress=10.0.0.5/24\n", ""),
    ("/etc/systemd/network/70-x.link", "[Match]\nMACAddress=52:54:00:12:34:56\n", "mac"),
    (RED_HAT, "DEVICE=eth0\nBOOTPROTO=dhcp\nONBOOT=yes\n", "dhcp"),
    (RED_HAT, 'BOOTPROTO="none"\nIPADDR=10.0.0.5\n', "static"),
    (RED_HAT, "BOOTPROTO=static\nIPADDR0=10.0.0.5\n", "static"),
    (RED_HAT, "BOOTPROTO=dhcp\nHWADDR=52:54:00:12:34:56\n", "dhcp mac"),
    (f"{RED_HAT[:-4]}lo", "DEVICE=lo\nIPADDR=127.0.0.1\n", ""),
    (f"{RED_HAT}.bak", "IPADDR=10.0.0.5\n", ""),
    (SUSE, "BOOTPROTO='dhcp4'\nSTARTMODE='auto'\n", "dhcp"),
    (SUSE, "BOOTPROTO='static'\nIPADDR='10.0.0.5/24'\n", "static"),
    (RULES, 'SUBSYSTEM=="net", ATTR{address}=="52:54:00:12:34:56", NAME="eth0"\n', "mac"),
    (RULES, '# SUBSYSTEM=="net", ATTR{address}=="52:54:00:12:34:56", NAME="eth0"\n', ""),
    (RULES, "# This file was generated\n", ""),
    ("/etc/rc.conf", 'hostname="x"\nifconfig_vtnet0="DHCP"\n', "dhcp"),
    ("/etc/rc.conf", 'ifconfig_em0="inet 10.0.0.5/24"\n', "static"),
    ("/etc/unrelated", "iface eth0 inet static\n", ""),
]


@pytest.mark.parametrize(("path", "text", "expected"), CASES)
def test_a_configuration_is_understood(path: str, text: str, expected: str) -> None:
    facts = network_facts(tree({path: text}))
    found = {"dhcp": facts.dhcp, "static": facts.static, "mac": facts.fixed_mac}
    assert {name: paths for name, paths in found.items() if paths} == {
        name: [path] for name in expected.split()
    }


@pytest.mark.parametrize(
    ("paths", "answer"),
    [
        ({}, False),
        ({"/usr/sbin/NetworkManager": b""}, True),
        (
            {
                "/usr/sbin/NetworkManager": b"",
                "/etc/NetworkManager/conf.d/00-server.conf": "[main]\nno-auto-default=*\n",
            },
            False,
        ),
    ],
)
def test_network_manager_asks_by_itself_unless_told(paths: Paths, answer: bool) -> None:
    assert connects_by_itself(tree(paths)) is answer


def test_only_so_many_files_are_read() -> None:
    many: Paths = {f"/etc/network/interfaces.d/{number:04}": "iface a inet dhcp\n" for number in range(500)}
    assert len(network_facts(tree(many)).dhcp) == 64


@pytest.mark.parametrize("path", sorted({path for path, _, _ in CASES}))
@pytest.mark.parametrize(
    "filler", ["\n", " ", "a:", "a.", "addresses: [", "iface a inet ", "\t\n=", "0" * 50 + ":"]
)
def test_a_long_file_is_understood_without_going_back_and_forth(path: str, filler: str) -> None:
    """A pattern that tries every length at every place would take hours here; the runner would end it."""
    facts = network_facts(tree({path: filler * (MAX_BYTES // len(filler))}))
    assert not facts.fixed_mac
