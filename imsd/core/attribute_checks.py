"""Checks of what a caller says of an image beside its disk, each by itself, whatever its kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

from imsd.contract import InvalidRequest

from . import checks, limits

# The marks of `imsd.v1.ServerSupport`: those that are set or not, and those that name a device.
SUPPORT_FLAGS = (
    "has_kvm",
    "has_xen",
    "has_large_memory",
    "has_disk_intensive",
    "has_high_performance",
    "has_xen_hana",
    "has_kvm_infiniband",
    "has_amd",
    "has_sriov",
    "has_virtio_net",
    "has_nvme_high_io",
    "has_s4l",
    "has_gpu_t4",
    "has_kvm_ascend_310",
    "has_hiovs",
)
SUPPORT_DEVICES = ("xen_gpu_type", "kvm_gpu_type", "kvm_fpga_type")

# Marks that are not set together (contract §5.2, the line below the table).
SUPPORT_EXCLUSIONS = (
    ("has_xen", "has_xen_hana"),
    ("has_xen", "xen_gpu_type"),
    ("has_xen", "kvm_gpu_type"),
    ("has_xen", "has_kvm_infiniband"),
    ("has_kvm", "has_xen_hana"),
    ("has_kvm", "xen_gpu_type"),
    ("has_kvm", "kvm_gpu_type"),
)


def os_version(value: str) -> str:
    """The name of a system, which stands in tables and lists: one line."""
    checks.text("os_version", value, limits.MAX_OS_VERSION)
    if not value.isprintable():
        checks.refuse("os_version", "os_version has characters that no name of a system has")
    return value


def family(value: str) -> str:
    return checks.matching(
        "family",
        value,
        limits.FAMILY,
        f"{value[:80]!r} cannot be a family: 1 to 63 lower-case letters, digits and -, a letter first",
    )


def enterprise_project(value: str) -> str:
    """``0``, the default one, when nothing is said."""
    if value in ("", "0"):
        return "0"
    return checks.matching(
        "enterprise_project_id",
        value,
        limits.UUID,
        f"{value[:64]!r} is no enterprise project: use 0, or a UUID in lower case",
    )


def product_code(value: str) -> str:
    return checks.matching(
        "product_code",
        value,
        limits.PRODUCT_CODE,
        f"{value[:80]!r} cannot be a product code: 0 to 64 letters, digits, - or _",
    )


def shutdown_timeout(value: int) -> int:
    return checks.number("shutdown_timeout_seconds", value, *limits.SHUTDOWN_TIMEOUT_SECONDS)


def agents(value: Sequence[str]) -> list[str]:
    """Each once, in the order given."""
    named = list(dict.fromkeys(value[: limits.MAX_AGENTS + 1]))
    if len(value) > limits.MAX_AGENTS:
        checks.refuse("agents", f"{len(value)} agents, but an image has at most {limits.MAX_AGENTS}")
    for name in named:
        if not limits.AGENT.match(name):
            checks.refuse(
                "agents", f"{name[:64]!r} cannot be an agent", "1 to 32 lower-case letters, digits, - or _"
            )
    return named


def os_features(value: str) -> str:
    """JSON text, an object or an array; the empty text says nothing."""
    checks.text("os_features", value, limits.MAX_OS_FEATURES)
    if not value:
        return ""
    try:
        content = json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict | list):
        checks.refuse("os_features", "os_features is not the JSON text of an object or an array")
    return value


def server_support(value: Mapping[str, object]) -> dict[str, object]:
    """The marks that are set. Raises InvalidRequest, also for marks that exclude each other."""
    marks = devices(value)
    for one, other in SUPPORT_EXCLUSIONS:
        if one in marks and other in marks:
            raise InvalidRequest(
                f"server_support has both {one} and {other}, which exclude each other",
                field="server_support",
                hint=f"leave one of {one} and {other} out",
            )
    return marks


def devices(value: Mapping[str, object]) -> dict[str, object]:
    """The marks that are set, whatever they exclude. Raises InvalidRequest."""
    marks = {name: value[name] for name in (*SUPPORT_FLAGS, *SUPPORT_DEVICES) if value.get(name)}
    for name in SUPPORT_DEVICES:
        if not limits.DEVICE.match(str(marks.get(name, ""))):
            checks.refuse(
                f"server_support.{name}",
                f"{str(marks[name])[:80]!r} cannot be a type of device",
                "0 to 64 letters, digits or _",
            )
    return marks


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
