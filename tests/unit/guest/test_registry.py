"""Registry hives: what hivexregedit writes is read; the rest by the letter; damage is refused."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from imsd.guest.registry import Hive, RegistryValue, ValueType
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.damage import WatchedVolume, look_at_hive, survives_damage
from tests.unit.guest.windows_disks import SOFTWARE_REG, SYSTEM_REG, empty_hive, make_hive

BINS = 4096
CURRENT_VERSION = "Microsoft\\Windows NT\\CurrentVersion"


class CraftedHive:
    """A hive put together cell by cell, below a root key."""

    def __init__(self) -> None:
        self._content = bytearray(empty_hive())
        self.root = struct.unpack_from("<I", self._content, 36)[0]

    def cell(self, content: bytes) -> int:
        """The place of a new cell."""
        place = len(self._content) - BINS
        size = (len(content) + 4 + 7) // 8 * 8
        self._content += struct.pack("<i", -size) + content.ljust(size - 4, b"\0")
        return place

    def key(self, name: str, subkeys: tuple[int, int] = (0, 0), values: tuple[int, int] = (0, 0)) -> int:
        """Of subkeys and values: how many, and the place of their list."""
        stored = name.encode("utf-16-le")
        fixed = struct.pack("<2sHQIIII", b"nk", 0, 0, 0, 0, subkeys[0], 0)
        fixed += struct.pack("<IIII", subkeys[1], 0, *values).ljust(44, b"\0")
        return self.cell(fixed + struct.pack("<HH", len(stored), 0) + stored)

    def value(self, name: str, kind: int, length: int, place: int) -> int:
        return self.cell(
            struct.pack("<2sHIIIHH", b"vk", len(name), length, place, kind, 1, 0) + name.encode()
        )

    def key_list(self, signature: bytes, places: list[int]) -> int:
        entry = "<I" if signature in (b"li", b"ri") else "<I4x"
        body = b"".join(struct.pack(entry, place) for place in places)
        return self.cell(struct.pack("<2sH", signature, len(places)) + body)

    def places(self, places: list[int]) -> int:
        return self.cell(struct.pack(f"<{len(places)}I", *places))

    def set_root(self, *, subkeys: tuple[int, int] = (0, 0), values: tuple[int, int] = (0, 0)) -> None:
        start = BINS + self.root + 4
        struct.pack_into("<I", self._content, start + 20, subkeys[0])
        struct.pack_into("<I", self._content, start + 28, subkeys[1])
        struct.pack_into("<II", self._content, start + 36, *values)

    def patch(self, place: int, content: bytes) -> None:
        """Over the content of a cell."""
        self._content[BINS + place + 4 : BINS + place + 4 + len(content)] = content

    def opened(self) -> Hive:
        return Hive(WatchedVolume(self._content))


def with_value(kind: int, content: bytes) -> RegistryValue:
    """A value of the root key, written and read."""
    hive = CraftedHive()
    place = hive.value("Name", kind, len(content), hive.cell(content))
    hive.set_root(values=(1, hive.places([place])))
    found = hive.opened().root().value("NAME")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def software(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_hive(tmp_path_factory.mktemp("hive") / "SOFTWARE", SOFTWARE_REG)


def test_what_hivexregedit_writes_is_read(software: bytes) -> None:
    hive = Hive(BytesVolume(software))
    key = hive.key(CURRENT_VERSION.upper())
    assert key is not None
    values = key.values()
    assert values["ProductName"].text() == "Windows Server 2022 Standard"
    assert values["CurrentMajorVersionNumber"].number() == 10
    assert values["SystemRoot"].type == ValueType.EXPAND_SZ
    assert key.value("nothing") is None
    assert [found.name for found in hive.root().subkeys()] == ["Microsoft"]
    assert hive.key("Microsoft\\Nothing\\Below") is None
    assert hive.key("") == hive.root()
    assert not hive.is_dirty


def test_the_control_set_in_use_is_found(tmp_path: Path) -> None:
    hive = Hive(BytesVolume(make_hive(tmp_path / "SYSTEM", SYSTEM_REG)))
    current = hive.control_set()
    assert current is not None
    assert current.name == "ControlSet001"
    service = hive.key("ControlSet001\\services\\VIOSCSI")
    assert service is not None
    values = service.values()
    assert (values["Start"].number(), values["DependOnService"].texts()) == (0, ["a", "bc"])


@pytest.mark.parametrize("number", ["00000000", "00000007", "ffffffff"])
def test_a_control_set_that_is_not_there_is_none(tmp_path: Path, number: str) -> None:
    entries = f'[\\Select]\n"Current"=dword:{number}\n'
    assert Hive(BytesVolume(make_hive(tmp_path / "SYSTEM", entries))).control_set() is None


def test_only_the_pages_that_are_needed_are_read(tmp_path: Path) -> None:
    others = "".join(f'[\\Classes\\Key {number}]\n"Name"="{"x" * 200}"\n\n' for number in range(800))
    content = make_hive(tmp_path / "SOFTWARE", SOFTWARE_REG + "\n" + others)
    volume = WatchedVolume(content)
    key = Hive(volume).key(CURRENT_VERSION)
    assert key is not None
    assert key.values()["EditionID"].text() == "ServerStandard"
    assert volume.read_bytes < 64 << 10 < len(content)
    found = Hive(volume).key("classes\\KEY 654")
    assert found is not None
    assert volume.read_bytes < 256 << 10


def test_a_hive_that_was_not_saved_is_dirty(software: bytes) -> None:
    damaged = bytearray(software)
    struct.pack_into("<I", damaged, 4, 77)
    hive = Hive(BytesVolume(bytes(damaged)))
    assert hive.is_dirty
    assert hive.key(CURRENT_VERSION) is not None


@pytest.mark.parametrize("signature", [b"li", b"lf"])
@pytest.mark.parametrize("is_nested", [False, True])
def test_every_kind_of_list_is_read(signature: bytes, is_nested: bool) -> None:
    hive = CraftedHive()
    names = ["Alpha", "Größe", "日本"]
    keys = [hive.key(name) for name in names]
    if is_nested:
        parts = [hive.key_list(signature, keys[:1]), hive.key_list(signature, keys[1:])]
        hive.set_root(subkeys=(3, hive.key_list(b"ri", parts)))
    else:
        hive.set_root(subkeys=(3, hive.key_list(signature, keys)))
    root = hive.opened().root()
    assert [key.name for key in root.subkeys()] == names
    found = root.subkey("GRÖßE")
    assert found is not None
    assert found.name == "Größe"


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        (ValueType.SZ, "Größe\0rest".encode("utf-16-le"), ("Größe", None, None)),
        (ValueType.SZ, b"a\0b", ("a\ufffd", None, None)),
        (ValueType.EXPAND_SZ, "%x%".encode("utf-16-le"), ("%x%", None, None)),
        (ValueType.MULTI_SZ, "a\0b\0\0".encode("utf-16-le"), (None, ["a", "b"], None)),
        (ValueType.QWORD, b"\1\0\0\0\1\0\0\0", (None, None, (1 << 32) + 1)),
        (ValueType.DWORD_BIG_ENDIAN, b"\0\0\1\0", (None, None, 256)),
        (ValueType.BINARY, b"abcde", (None, None, None)),
        (0xFFFFFFFF, b"abcde", (None, None, None)),
    ],
)
def test_values_are_read_by_their_type(
    kind: int, content: bytes, expected: tuple[str | None, list[str] | None, int | None]
) -> None:
    value = with_value(kind, content)
    assert value.content[: len(content)] == content
    assert (value.text(), value.texts(), value.number()) == expected


def big(hive: CraftedHive, content: bytes) -> int:
    """The place of a value's content in segments."""
    segments = [hive.cell(content[start : start + 16_344]) for start in range(0, len(content), 16_344)]
    return hive.cell(struct.pack("<2sHI", b"db", len(segments), hive.places(segments)))


def test_big_values_are_read() -> None:
    content = random.Random(5).randbytes(50_000)
    hive = CraftedHive()
    value = hive.value("Big", ValueType.BINARY, len(content), big(hive, content))
    hive.set_root(values=(1, hive.places([value])))
    found = hive.opened().root().value("big")
    assert found is not None
    assert found.content == content


def test_values_of_more_bytes_than_are_kept_are_refused() -> None:
    hive = CraftedHive()
    length = 1 << 20
    value = hive.value("Big", ValueType.BINARY, length, big(hive, bytes(length)))
    hive.set_root(values=(6, hive.places([value] * 6)))
    root = hive.opened().root()
    found = root.value("Big")
    assert found is not None
    assert len(found.content) == length
    with pytest.raises(GuestUnreadable, match="bytes of the values"):
        root.values()


def test_lists_that_lead_to_one_another_are_refused() -> None:
    hive = CraftedHive()
    inner = hive.key_list(b"ri", [0])
    hive.patch(inner, struct.pack("<2sHI", b"ri", 1, inner))
    hive.set_root(subkeys=(5, inner))
    with pytest.raises(GuestUnreadable, match="no list of keys"):
        list(hive.opened().root().subkeys())


def test_a_key_below_itself_does_not_hold_a_reader() -> None:
    hive = CraftedHive()
    hive.set_root(subkeys=(1, hive.key_list(b"li", [hive.root])))
    found = hive.opened().key("\\".join(["ROOT"] * 1000))
    assert found is not None
    assert found.name == "ROOT"


def test_a_key_that_is_below_itself_many_times_is_given_up() -> None:
    hive = CraftedHive()
    other = hive.key("other")
    hive.set_root(subkeys=(60_000, hive.key_list(b"li", [other] * 59_999 + [hive.root])))
    with pytest.raises(GuestUnreadable, match="number of keys read"):
        hive.opened().key("ROOT\\ROOT\\ROOT\\ROOT\\ROOT")


@pytest.mark.parametrize(
    ("subkeys", "message"),
    [(1, "subkeys that are left"), (1 << 20, "number of subkeys")],
)
def test_more_subkeys_than_a_key_has_are_refused(subkeys: int, message: str) -> None:
    hive = CraftedHive()
    keys = [hive.key("a"), hive.key("b")]
    hive.set_root(subkeys=(subkeys, hive.key_list(b"li", keys)))
    with pytest.raises(GuestUnreadable, match=message):
        list(hive.opened().root().subkeys())


def test_more_lists_than_any_key_has_are_refused() -> None:
    hive = CraftedHive()
    empty = hive.key_list(b"li", [])
    hive.set_root(subkeys=(5, hive.key_list(b"ri", [empty] * 60_000)))
    with pytest.raises(GuestUnreadable, match="number of lists"):
        list(hive.opened().root().subkeys())


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (0, b"fger"),
        (20, b"\2"),
        (36, b"\xff\xff\xff\xff"),
        (BINS + 0x20, struct.pack("<i", 96)),  # the root cell is free
        (BINS + 0x20, struct.pack("<i", -(1 << 31))),
        (BINS + 0x24, b"sk"),
        (BINS + 0x24 + 72, b"\xff\xff"),  # name length
    ],
)
def test_what_is_no_hive_is_refused(offset: int, content: bytes) -> None:
    damaged = bytearray(empty_hive())
    damaged[offset : offset + len(content)] = content
    with pytest.raises(GuestUnreadable):
        Hive(BytesVolume(bytes(damaged))).root()


def test_a_file_that_is_too_short_is_refused() -> None:
    with pytest.raises(GuestUnreadable, match="size of a hive"):
        Hive(BytesVolume(b"regf"))


def test_damage_is_only_ever_unreadable(software: bytes) -> None:
    assert survives_damage(software, look_at_hive, range(500)) > 100
