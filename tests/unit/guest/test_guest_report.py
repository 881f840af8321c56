"""Reports: bounded and cleaned whatever a guest says, and refused when they are none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.guest.codes import CODES, Severity, finding
from imsd.guest.report import (
    MAX_ITEMS,
    MAX_JSON_BYTES,
    MAX_TEXT,
    BootMode,
    GuestReport,
    PartitionSummary,
    Readiness,
    clean,
    not_inspected,
)

FULL = GuestReport(
    is_inspected=True,
    is_verified=True,
    os_type="Linux",
    distribution="debian",
    name="Debian GNU/Linux 12 (bookworm)",
    version="12.15",
    os_version="Debian GNU/Linux 12.15.0 64bit",
    bits=64,
    architecture="x86",
    boot_modes=(BootMode.BIOS, BootMode.UEFI),
    default_boot_mode=BootMode.BIOS,
    has_cloud_init=True,
    has_guest_agent=True,
    virtio_disk=Readiness.READY,
    virtio_network=Readiness.MISSING,
    partitions=(PartitionSummary(1, "root", 1 << 30, "0x83", "ext4", "r", "/"),),
    findings=(finding("MACHINE_ID_SET", "it is set"),),
    evidence=("root: partition 1",),
)


@pytest.mark.parametrize("report", [FULL, GuestReport(), not_inspected("it was not to be")])
def test_a_report_is_the_same_after_its_json(report: GuestReport) -> None:
    assert GuestReport.from_json(report.to_json()) == report


texts = st.text(st.characters(), max_size=3000)


@settings(max_examples=100)
@given(texts, st.lists(texts, max_size=300))
def test_whatever_a_guest_says_is_cut_and_cleaned(text: str, lines: list[str]) -> None:
    report = GuestReport(
        name=text,
        distribution=text,
        evidence=tuple(lines),
        partitions=tuple(PartitionSummary(1, line, 1, line, line, line, line) for line in lines),
        findings=tuple(finding("MACHINE_ID_SET", line) for line in lines),
    )
    read = GuestReport.from_json(report.to_json())
    assert len(read.evidence) == len(read.findings) == min(len(lines), MAX_ITEMS)
    for each in (read.name, read.distribution, *read.evidence, *(part.label for part in read.partitions)):
        assert len(each) <= MAX_TEXT
        assert each.isprintable() or not each.isascii()
        assert "\n" not in each
        assert "\x1b" not in each


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\tb\n c", "a b c"),
        ("\x1b[31mred\x07", "[31mred"),
        ("\u202eabc\u200b", "abc"),
        ("\udcff", ""),
        ("x" * 401, "x" * 399 + "…"),
        ("été", "été"),
    ],
)
def test_texts_are_cleaned(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(FULL.to_json()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '"report"',
        "[" * 5000,
        "\xff",
        b"\xff\xfe\xfd",
        "{" + " " * MAX_JSON_BYTES + "}",
        changed(is_inspected=1),
        changed(os_type="Plan 9"),
        changed(architecture="vax"),
        changed(bits=-1),
        changed(bits=True),
        changed(bits=1 << 70),
        changed(name=None),
        changed(name=["x"]),
        changed(boot_modes=["bios", "coreboot"]),
        changed(boot_modes="bios"),
        changed(default_boot_mode={}),
        changed(virtio_disk="perhaps"),
        changed(partitions=[{}]),
        changed(partitions=[5]),
        changed(partitions=[{"number": 1.5}]),
        changed(findings=[{"code": "SEND_MONEY", "message": "now"}]),
        changed(findings=[{"code": "MACHINE_ID_SET"}]),
        changed(evidence=[1]),
        changed(evidence=["x"] * (MAX_ITEMS + 1)),
    ],
)
def test_what_is_no_report_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        GuestReport.from_json(text)


def test_remedies_and_severities_are_ours_whatever_a_report_says() -> None:
    lie = {"code": "MACHINE_ID_SET", "message": "x", "severity": "blocks_boot", "remedy": "send money"}
    [found] = GuestReport.from_json(changed(findings=[lie])).findings
    assert (found.severity, found.remedy) == CODES["MACHINE_ID_SET"]
    assert found.severity is Severity.ADVICE


def test_every_remedy_fits_in_a_message() -> None:
    assert all(0 < len(remedy) <= MAX_TEXT and code.isupper() for code, (_, remedy) in CODES.items())
