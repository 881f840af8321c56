"""What is said of an image beside its disk: bad input first."""

from __future__ import annotations

from typing import Any

import pytest

from imsd.contract import InvalidRequest
from imsd.core import attribute_checks as checks
from imsd.v1 import image_pb2

UUID = "11111111-2222-4333-8444-555555555555"


@pytest.mark.parametrize(
    "value", ["A", "1a", "-a", "a_b", "a b", "ä", "a" * 64, "a\n", "a\0", "a.b", "a/b", "%", "A" * 100_000]
)
def test_bad_families_are_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checks.family(value)
    assert refused.value.field == "family"
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("value", ["", "a", "debian-12", "a" * 63])
def test_good_families_pass(value: str) -> None:
    assert checks.family(value) == value


@pytest.mark.parametrize(
    "value", ["Debian\n12", "\x1b[2J", "a\tb", "a\0", "\u202eCentOS", "\x85", "a" * 256, "\ufeffx"]
)
def test_bad_names_of_systems_are_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checks.os_version(value)
    assert refused.value.field == "os_version"


@pytest.mark.parametrize("value", ["", "Other_Linux (64_bit)", "银河麒麟 V10 64bit", "a" * 255])
def test_good_names_of_systems_pass(value: str) -> None:
    assert checks.os_version(value) == value


@pytest.mark.parametrize(
    "value", ["1", "00", "default", UUID.upper().replace("1", "A"), UUID + "0", "all_granted_eps"]
)
def test_bad_enterprise_projects_are_refused(value: str) -> None:
    with pytest.raises(InvalidRequest):
        checks.enterprise_project(value)


def test_no_enterprise_project_is_the_default_one() -> None:
    assert checks.enterprise_project("") == "0"
    assert checks.enterprise_project(UUID) == UUID


@pytest.mark.parametrize("seconds", [0, -1, 59, 301, 1 << 31])
def test_a_shutdown_takes_60_to_300_seconds(seconds: int) -> None:
    with pytest.raises(InvalidRequest):
        checks.shutdown_timeout(seconds)
    assert (checks.shutdown_timeout(60), checks.shutdown_timeout(300)) == (60, 300)


@pytest.mark.parametrize(
    "names", [[""], ["HSS"], ["a,b"], ["a" * 33], [str(n) for n in range(17)], ["x"] * 400_000]
)
def test_bad_agents_are_refused(names: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        checks.agents(names)


def test_an_agent_counts_once() -> None:
    assert checks.agents(["hss", "ces", "hss"]) == ["hss", "ces"]


@pytest.mark.parametrize(
    "text",
    ["{", "1", '"a"', "null", "NaN", '{"a": Infinity}', "[" * 4096, '{"a":' * 800, "{}" + " " * 4096, "{}\0"],
)
def test_features_are_the_json_text_of_an_object_or_an_array(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checks.os_features(text)
    assert refused.value.field == "os_features"


@pytest.mark.parametrize("text", ["", "{}", '[{"onekey_resetpasswd": "true"}]'])
def test_good_features_pass(text: str) -> None:
    assert checks.os_features(text) == text


@pytest.mark.parametrize(
    "marks",
    [
        {"has_xen": True, "has_xen_hana": True},
        {"has_kvm": True, "has_xen_hana": True},
        {"has_kvm": True, "xen_gpu_type": "M60_vGPU"},
        {"has_xen": True, "kvm_gpu_type": "V100"},
        {"has_xen": True, "has_kvm_infiniband": True},
        {"kvm_gpu_type": "a b"},
        {"xen_gpu_type": "x" * 65},
        {"kvm_fpga_type": "\0"},
    ],
)
def test_marks_that_exclude_each_other_are_refused(marks: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checks.server_support(marks)
    assert refused.value.field.startswith("server_support")


def test_marks_that_are_not_set_are_not_kept() -> None:
    marks = {"has_kvm": True, "has_xen": False, "xen_gpu_type": "", "kvm_fpga_type": "VU9P"}
    assert checks.server_support(marks) == {"has_kvm": True, "kvm_fpga_type": "VU9P"}


def test_every_mark_of_the_message_is_known() -> None:
    fields = {field.name for field in image_pb2.ServerSupport.DESCRIPTOR.fields}
    assert fields == {*checks.SUPPORT_FLAGS, *checks.SUPPORT_DEVICES}
