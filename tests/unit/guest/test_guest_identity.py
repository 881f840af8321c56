"""Which system a root holds, for every distribution that has a rule."""

from __future__ import annotations

import pytest

from imsd.guest.file_system import Tree
from imsd.guest.freebsd import identify_freebsd
from imsd.guest.identity import Identity
from imsd.guest.linux import identify_linux
from imsd.guest.os_release import parse_assignments
from tests.unit.guest.memory_tree import ELF_X86, MERGED_USR, Broken, Link, Paths, elf, tree

OS = "/etc/os-release"


def identified(paths: Paths) -> Identity:
    found = identify_linux(tree({"/bin/sh": ELF_X86, **paths}))
    assert found is not None
    return found


LINUXES: list[tuple[Paths, str]] = [
    (
        {OS: "ID=debian\n", "/etc/debian_version": "12.15\n"},
        "Debian GNU/Linux 12.15.0 64bit",
    ),
    ({OS: "ID=debian\nVERSION_ID=12\n"}, "Debian GNU/Linux 12.0.0 64bit"),
    ({OS: "ID=debian\nVERSION_ID=8\n", "/etc/debian_version": "8.8"}, "Debian GNU/Linux 8.8.0 64bit"),
    ({OS: "ID=debian\n", "/etc/debian_version": "trixie/sid\n"}, "Other_Linux (64_bit)"),
    ({"/etc/debian_version": "6.0.10\n"}, "Debian GNU/Linux 6.0.10 64bit"),
    (
        {OS: "ID=ubuntu\nVERSION_ID=18.04", "/etc/debian_version": "buster/sid"},
        "Ubuntu 18.04 Server 64bit",
    ),
    (
        {
            OS: 'ID="centos"\nVERSION_ID="7"\n',
            "/etc/centos-release": "CentOS Linux release 7.6.1810 (Core)\n",
        },
        "CentOS 7.6 64bit",
    ),
    ({OS: 'ID="centos"\nVERSION_ID="8"\nNAME="CentOS Stream"\n'}, "Other_Linux (64_bit)"),
    ({"/etc/redhat-release": "CentOS release 6.9 (Final)\n"}, "CentOS 6.9 64bit"),
    (
        {
            "/etc/centos-release": "CentOS release 6.10 (Final)\n",
            "/etc/redhat-release": Link("centos-release"),
        },
        "CentOS 6.10 64bit",
    ),
    (
        {"/etc/redhat-release": "Red Hat Enterprise Linux Server release 6.5 (Santiago)\n"},
        "Red Hat Linux Enterprise 6.5 64bit",
    ),
    (
        {
            OS: 'ID="rhel"\nVERSION_ID="7.9"\n',
            "/etc/redhat-release": "Red Hat Enterprise Linux Server release 7.9 (Maipo)",
        },
        "Red Hat Linux Enterprise 7.9 64bit",
    ),
    ({OS: 'ID="rhel"\nVERSION_ID="8.0"\n'}, "Red Hat Linux Enterprise 8.0 64bit"),
    (
        {OS: 'ID="ol"\nVERSION_ID="7.4"\n', "/etc/oracle-release": "Oracle Linux Server release 7.4"},
        "Oracle Linux Server release 7.4 64bit",
    ),
    (
        {OS: 'ID="euleros"\nVERSION_ID="2.0"\n', "/etc/euleros-release": "EulerOS release 2.0 (SP5)"},
        "EulerOS 2.5 64bit",
    ),
    (
        {
            OS: 'ID="openEuler"\nVERSION_ID="20.03"\n',
            "/etc/openEuler-release": "openEuler release 20.03 (LTS-SP1)",
        },
        "openEuler 20.03 64bit",
    ),
    (
        {"/etc/SuSE-release": "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 4\n"},
        "SUSE Linux Enterprise Server 11 SP4 64bit",
    ),
    ({"/etc/SuSE-release": "openSUSE 13.2 (x86_64)\nVERSION = 13.2\n"}, "openSUSE 13.2 64bit"),
    ({OS: 'ID="sles"\nVERSION_ID="12.5"\n'}, "SUSE Linux Enterprise Server 12 SP5 64bit"),
    ({OS: 'ID="sles"\nVERSION_ID="15"\n'}, "SUSE Linux Enterprise Server 15 64bit"),
    ({OS: 'ID="opensuse-leap"\nVERSION_ID="15.1"\n'}, "openSUSE 15.1 64bit"),
    ({OS: "ID=fedora\nVERSION_ID=29\n"}, "Fedora 29 64bit"),
    ({"/etc/fedora-release": "Fedora release 14 (Laughlin)\n"}, "Fedora 14 64bit"),
    ({OS: "ID=coreos\nVERSION_ID=2079.4.0\n"}, "CoreOS 2079.4.0"),
    (
        {OS: "ID=kylin\n", "/etc/kylin-release": "Kylin Linux release 4.2"},
        "Kylin 4.2 64bit",
    ),
    ({OS: 'ID="kylinsec"\nVERSION_ID="3.3"\n'}, "KylinSec 3.3 64bit"),
    (
        {"/etc/neokylin-release": "NeoKylin Linux Advanced Server release V7Update6\n"},
        "NeoKylin 7.6 64bit",
    ),
    ({OS: 'ID="neokylin"\nVERSION_ID="V7"\n'}, "NeoKylin V7 64bit"),
    ({OS: 'ID=uos\nVERSION_ID="20"\n'}, "UOS 20 64bit"),
    ({OS: "ID=alpine\nVERSION_ID=3.20.1\n"}, "Other_Linux (64_bit)"),
    ({OS: 'ID="rocky"\nVERSION_ID="9.4"\n'}, "Other_Linux (64_bit)"),
    ({OS: "ID=arch\n"}, "Other_Linux (64_bit)"),
]


@pytest.mark.parametrize(("paths", "os_version"), LINUXES, ids=[name for _, name in LINUXES])
def test_a_linux_is_named_as_the_image_service_names_it(paths: Paths, os_version: str) -> None:
    found = identified(paths)
    assert found.os_version == os_version
    assert found.os_type == "Linux"
    assert found.evidence


def test_os_release_in_usr_is_read_through_links_inside_the_guest() -> None:
    found = identified({
        **MERGED_USR,
        "/etc/os-release": Link("/usr/lib/os-release"),
        "/usr/lib/os-release": 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "/etc/debian_version": "12.5\n",
        "/bin/sh": Link("/nowhere"),
    })  # fmt: skip
    assert found.name == "Debian GNU/Linux 12 (bookworm)"
    assert (found.version, found.listed_version) == ("12.5", "12.5.0")


def test_a_usr_partition_alone_is_a_root_too() -> None:
    found = identify_linux(tree({"/lib/os-release": "ID=flatcar\nVERSION_ID=3815.2.0\n", "/bin/sh": ELF_X86}))
    assert found is not None
    assert found.distribution == "flatcar"


@pytest.mark.parametrize(
    ("machine", "bits", "family", "os_version"),
    [
        (62, 64, "x86", "Fedora 29 64bit"),
        (3, 32, "x86", "Fedora 29 32bit"),
        (183, 64, "arm", "Fedora 29 64bit"),
        (40, 32, "arm", "Fedora 29 32bit"),
        (243, 64, "", "Fedora 29 64bit"),
    ],
)
def test_the_architecture_is_that_of_the_programs(
    machine: int, bits: int, family: str, os_version: str
) -> None:
    found = identified({OS: "ID=fedora\nVERSION_ID=29\n", "/bin/sh": elf(machine, bits)})
    assert found.architecture is not None
    assert (found.architecture.family, found.bits) == (family, bits)
    assert found.os_version == os_version


@pytest.mark.parametrize(
    "path", ["/usr/bin/env", "/sbin/init", "/lib64/ld-linux-x86-64.so.2", "/bin/busybox"]
)
def test_another_program_tells_the_architecture_where_there_is_no_shell(path: str) -> None:
    paths: Paths = {OS: "ID=fedora\n", "/bin/sh": Link("/missing"), path: elf(3, 32)}
    found = identified(paths)
    assert found.bits == 32
    assert any(path in line for line in found.evidence)


def test_a_script_is_no_program_to_go_by() -> None:
    found = identified({OS: "ID=fedora\n", "/bin/sh": "#!/bin/true\n", "/usr/bin/env": elf(183)})
    assert found.architecture is not None
    assert found.architecture.family == "arm"


def test_without_any_program_the_bits_are_not_known() -> None:
    found = identify_linux(tree({OS: "ID=void\n"}))
    assert found is not None
    assert (found.architecture, found.bits, found.os_version) == (None, 0, "Other_Linux (64_bit)")


def test_a_root_that_names_itself_nowhere_is_a_linux_all_the_same() -> None:
    found = identified({"/etc/fstab": "", "/etc/passwd": "", "/sbin/init": elf(3, 32), "/bin/sh": elf(3, 32)})
    assert (found.distribution, found.os_version) == ("", "Other_Linux (32_bit)")


@pytest.mark.parametrize(
    "paths",
    [
        {},
        {"/etc/passwd": ""},
        {"/vmlinuz-6.1": b"x", "/grub/grub.cfg": ""},
        {OS: "nonsense\n"},
        {OS: b"\xff\xfe\0" * 99},
    ],
)
def test_what_is_no_root_is_none(paths: Paths) -> None:
    assert identify_linux(tree(paths)) is None


@pytest.mark.parametrize("version", ["9" * 100, "29; reboot", "../x", ""])
def test_a_version_that_is_none_is_named_in_no_list(version: str) -> None:
    assert identified({OS: f'ID=fedora\nVERSION_ID="{version}"\n'}).os_version == "Other_Linux (64_bit)"


def test_links_that_go_round_end() -> None:
    found = identified(
        {OS: "ID=fedora\nVERSION_ID=30", "/bin/sh": Link("/bin/ash"), "/bin/ash": Link("/bin/sh")}
    )
    assert found.architecture is None


def test_a_huge_os_release_is_read_in_part() -> None:
    found = identified({OS: "ID=fedora\nVERSION_ID=29\n" + "X=" + "y" * (1 << 20)})
    assert found.os_version == "Fedora 29 64bit"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('USERLAND_VERSION="12.1-RELEASE-p3"\n', "12.1"),
        ("#!/bin/sh\nset -e\nUSERLAND_VERSION=11.0-RELEASE\n", "11.0"),
    ],
)
def test_freebsd_is_known_by_its_script(text: str, version: str) -> None:
    found = identify_freebsd(tree({"/bin/freebsd-version": text, "/bin/sh": ELF_X86}))
    assert found is not None
    assert (found.os_type, found.listed_version, found.os_version) == (
        "Other",
        version,
        f"FreeBSD {version} 64bit",
    )


def test_a_root_without_that_script_is_no_freebsd() -> None:
    assert identify_freebsd(tree({"/bin/sh": ELF_X86})) is None
    assert identify_freebsd(tree({"/bin/freebsd-version": "echo 12.1\n"})) is None


def test_damage_comes_out_as_such() -> None:
    damaged: Tree = tree({OS: Broken()})
    with pytest.raises(Exception, match="damaged for a test"):
        identify_linux(damaged)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ('A="b c"', "b c"),
        ("A='b \"c'", 'b "c'),
        (r'A="b \"c\" \$d"', 'b "c" $d'),
        ("export A=b", "b"),
        ("  A = b  # note", "b"),
        ('A="not closed', "not closed"),
        ("A=$(reboot)", "$(reboot)"),
        ("A=", ""),
    ],
)
def test_assignments_are_read_as_a_shell_would_and_never_run(line: str, value: str) -> None:
    assert parse_assignments(line) == {"A": value}


def test_other_lines_are_passed_over_and_additions_are_added() -> None:
    assert parse_assignments('# A=1\n[B]\nC="x"\nC+=" y "\n=d\n') == {"C": "x  y"}
