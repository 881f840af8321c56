"""One crafted file per attack: refused for its own reason, and never taken for a RAW disk."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest

from imsd.contract import ImageRefused
from imsd.formats.detect import detect, head_formats, open_image
from imsd.formats.source import MemorySource
from tests.unit.formats.disk_files import LIMIT, LateSource, with_fetches

VECTORS = Path(__file__).parent / "vectors"
MAX_MEMORY_BYTES = 64 << 20

EXPECTED = {
    "qcow1-aes.qcow": ("qcow", "IMAGE_ENCRYPTED"),
    "qcow2-100PiB.qcow2": ("qcow2", "IMAGE_TOO_LARGE"),
    "qcow2-backing-hostfile.qcow2": ("qcow2", "IMAGE_BACKING_FILE"),
    "qcow2-backing-json.qcow2": ("qcow2", "IMAGE_BACKING_FILE"),
    "qcow2-backing-nbd-url.qcow2": ("qcow2", "IMAGE_BACKING_FILE"),
    "qcow2-external-data-file.qcow2": ("qcow2", "IMAGE_EXTERNAL_DATA_FILE"),
    "qcow2-luks.qcow2": ("qcow2", "IMAGE_ENCRYPTED"),
    "vdi-type4-diff.vdi": ("vdi", "IMAGE_BACKING_FILE"),
    "vhd-block-size-0.vhd": ("vhd", "IMAGE_MALFORMED"),
    "vhd-dynamic-names-parent.vhd": ("vhd", "IMAGE_BACKING_FILE"),
    "vhd-fixed-inner-differencing.vhd": ("vhd", "IMAGE_MALFORMED"),
    "vhd-type4-differencing.vhd": ("vhd", "IMAGE_BACKING_FILE"),
    "vhdx-bat-over-headers.vhdx": ("vhdx", "IMAGE_MALFORMED"),
    "vhdx-block-size-0.vhdx": ("vhdx", "IMAGE_MALFORMED"),
    "vhdx-blocks-cut-to-32-bits.vhdx": ("vhdx", "IMAGE_TOO_LARGE"),
    "vhdx-has-parent.vhdx": ("vhdx", "IMAGE_BACKING_FILE"),
    "vhdx-oversized-virtual-size.vhdx": ("vhdx", "IMAGE_TOO_LARGE"),
    "vmdk-descriptor-nul-padded.vmdk": ("vmdk", "IMAGE_EXTERNAL_DATA_FILE"),
    "vmdk-embedded-flat-hostfile.vmdk": ("vmdk", "IMAGE_EXTERNAL_DATA_FILE"),
    "vmdk-extent-with-path.vmdk": ("vmdk", "IMAGE_EXTERNAL_DATA_FILE"),
    "vmdk-flat-hostfile.vmdk": ("vmdk", "IMAGE_EXTERNAL_DATA_FILE"),
    "vmdk-footer-disagrees.vmdk": ("vmdk", "IMAGE_MALFORMED"),
    "vmdk-huge-capacity.vmdk": ("vmdk", "IMAGE_TOO_LARGE"),
    "vmdk-huge-grain.vmdk": ("vmdk", "IMAGE_MALFORMED"),
    "vmdk-old-esx.vmdk": ("vmdk", "FORMAT_UNSUPPORTED"),
    "vmdk-parent-file.vmdk": ("vmdk", "IMAGE_BACKING_FILE"),
    "vmdk-part-of-split-disk.vmdk": ("vmdk", "IMAGE_EXTERNAL_DATA_FILE"),
    "vmdk-raw-device-map.vmdk": ("vmdk", "IMAGE_EXTERNAL_DATA_FILE"),
    "vmdk-sent-as-text.vmdk": ("vmdk", "IMAGE_MALFORMED"),
}


def content(name: str) -> bytes:
    return gzip.decompress((VECTORS / f"{name}.gz").read_bytes())


def test_every_vector_has_an_expectation() -> None:
    assert {path.stem for path in VECTORS.glob("*.gz")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_format_is_recognised(name: str) -> None:
    file = content(name)
    assert detect(MemorySource(file)) == EXPECTED[name][0]
    assert head_formats(file) == [EXPECTED[name][0]]


@pytest.mark.parametrize("declared_as_found", [True, False])
@pytest.mark.parametrize("name", EXPECTED)
def test_the_file_is_refused_for_its_own_reason(name: str, declared_as_found: bool) -> None:
    found, reason = EXPECTED[name]
    source = LateSource(content(name))
    declared = found if declared_as_found else None

    def refused() -> ImageRefused:
        with pytest.raises(ImageRefused) as refused:
            open_image(source, declared, LIMIT)
        return refused.value

    error, rounds = with_fetches(source, refused)
    assert error.reason == reason
    assert error.hint
    assert rounds <= 3
    assert source.fetched_bytes < 1 << 20


@pytest.mark.parametrize(
    ("name", "declared"),
    [(name, d) for name in EXPECTED for d in ("raw", "qcow2", "iso", "vhd") if d != EXPECTED[name][0]],
)
def test_a_wrong_declaration_is_refused(name: str, declared: str) -> None:
    with pytest.raises(ImageRefused) as refused:
        open_image(MemorySource(content(name)), declared, LIMIT)
    assert refused.value.reason == "FORMAT_MISMATCH"


@pytest.mark.parametrize("name", EXPECTED)
def test_cve_2015_5162_looking_at_a_hostile_file_takes_little_memory(name: str) -> None:
    source = MemorySource(content(name))
    tracemalloc.start()
    try:
        with pytest.raises(ImageRefused):
            open_image(source, None, LIMIT)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < MAX_MEMORY_BYTES
