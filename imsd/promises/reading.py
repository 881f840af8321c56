"""Reading, deleting and listing."""

from __future__ import annotations

import asyncio
import random

from imsd.contract import ByteRange, DataLoss, NotFound

from .promise import BLOB, MIB, NotOffered, Place, demand, demand_equal, refused


async def ranges_come_in_the_order_asked(place: Place) -> None:
    """Ranges come in the order in which they are asked for, those that overlap too."""
    content = random.Random(3).randbytes(100_000)
    await place.put(BLOB, content)
    asked = [(99_999, 1), (0, 10), (5, 10), (0, 10), (50_000, 50_000), (1, 1)]
    pieces = await place.read(BLOB, [ByteRange(offset, length) for offset, length in asked])
    expected = [place.kept(content[offset : offset + length]) for offset, length in asked]
    demand_equal(pieces, expected, "what was read")


async def a_thousand_ranges_are_one_call(place: Place) -> None:
    """A thousand ranges are read in one call."""
    content = random.Random(5).randbytes(64_000)
    await place.put(BLOB, content)
    pieces = await place.read(BLOB, [ByteRange(offset, 64) for offset in range(0, 64_000, 64)])
    demand_equal(b"".join(pieces), place.kept(content), "what was read")


async def no_ranges_are_no_bytes(place: Place) -> None:
    """A read of no ranges gives no bytes."""
    await place.put(BLOB, b"content")
    demand_equal(await place.read(BLOB, []), [], "what was read")


async def a_range_beyond_the_end_is_lost_data(place: Place) -> None:
    """A range that ends beyond its blob is an error, and is never cut short."""
    await place.put(BLOB, b"content")
    for offset, length in ((0, 8), (6, 2), (7, 1), (1 << 40, 1), (0, 1 << 40)):
        with refused(DataLoss, what=f"{length} bytes from {offset} of a blob of 7"):
            await place.read(BLOB, [ByteRange(0, 1), ByteRange(offset, length)])


async def a_missing_blob_is_not_found(place: Place) -> None:
    """A blob that is not there is not found, and deleting it is no error."""
    await place.put(BLOB, b"content")
    await place.put("folder/blob", b"content")
    for blob in ("missing", f"{BLOB}/missing", "folder", "folder/missing/deeper"):
        with refused(NotFound, what=f"stat of {blob}"):
            await place.stat(blob)
        with refused(NotFound, what=f"a read of {blob}"):
            await place.read(blob, [ByteRange(0, 1)])
        await place.delete(blob)
        demand_equal(await place.ids(), [BLOB, "folder/blob"], "list")


async def a_deleted_blob_is_gone(place: Place) -> None:
    """A deleted blob is gone, for lists and reads too, and can be deleted again."""
    await place.put(BLOB, b"content")
    await place.content(BLOB)  # whatever a store keeps of a blob that was read must go too
    await place.delete(BLOB)
    demand_equal(await place.ids(), [], "list")
    with refused(NotFound, what="stat"):
        await place.stat(BLOB)
    with refused(NotFound, what="a read"):
        await place.read(BLOB, [ByteRange(0, 1)])
    await place.delete(BLOB)


async def an_id_that_is_free_again_holds_new_bytes(place: Place) -> None:
    """An id whose blob was deleted holds the bytes that come next."""
    await place.put("folder/blob", b"old")
    demand_equal(await place.content("folder/blob"), place.kept(b"old"), "the old blob")
    await place.delete("folder/blob")
    await place.put("folder/blob", b"new bytes")
    demand_equal(await place.content("folder/blob"), place.kept(b"new bytes"), "the new blob")


async def a_version_tells_two_blobs_of_one_id_apart(place: Place) -> None:
    """The version of a blob tells it from another one under the same id."""
    old = await place.put(BLOB, b"as long")
    demand(len(old.version) <= 200, f"a version of {len(old.version)} characters")
    demand_equal((await place.stat(BLOB)).version, old.version, "the version that stat tells")
    await place.delete(BLOB)
    new = await place.put(BLOB, b"as well")
    if not old.version:
        raise NotOffered("the store has no versions")
    demand(new.version != old.version, "two blobs have one version")


async def upper_and_lower_case_are_two_ids(place: Place) -> None:
    """Upper and lower case are two ids."""
    await place.put("Folder/Blob", b"upper")
    await place.put("folder/blob", b"lower")
    demand_equal(await place.content("Folder/Blob"), place.kept(b"upper"), "the blob in upper case")
    demand_equal(await place.ids(), ["Folder/Blob", "folder/blob"], "list")
    await place.delete("folder/blob")
    demand_equal(await place.ids(), ["Folder/Blob"], "list")


async def a_folder_may_lose_its_last_blob_while_others_come(place: Place) -> None:
    """A folder may lose its last blob while others come into it."""

    async def come_and_go(number: int) -> None:
        for _ in range(10):
            await place.put(f"folder/sub/{number}", b"content")
            await place.delete(f"folder/sub/{number}")

    await asyncio.gather(*(come_and_go(number) for number in range(4)))
    demand_equal(await place.ids(), [], "list")


async def a_read_beside_a_delete_gives_all_or_an_error(place: Place) -> None:
    """A read beside a deletion gives all bytes or an error."""
    content = random.Random(13).randbytes(MIB)
    for _ in range(5):
        await place.put(BLOB, content)
        reads = [place.read(BLOB, [ByteRange(0, MIB)]) for _ in range(4)]
        *outcomes, _ = await asyncio.gather(*reads, place.delete(BLOB), return_exceptions=True)
        for outcome in outcomes:
            is_right = outcome == [place.kept(content)] or isinstance(outcome, NotFound | DataLoss)
            demand(is_right, f"a read gave neither: {outcome!r:.120}")
        demand_equal(await place.ids(), [], "list")


async def a_list_is_in_the_order_of_ids(place: Place) -> None:
    """A list is in the order of ids, byte by byte, however they look like folders."""
    # '-' and '.' sort before '/', digits and letters after it: folders do not sort as their names do
    blobs = ["a-b", "a.b", "a/b", "a/b-c", "a0b", "b/0/c", "b/0-c", "b/00", "ab", "a_b", "b-/c", "0", "A/b"]
    for blob in random.Random(17).sample(blobs, len(blobs)):
        await place.put(blob, b"x")
    demand_equal(await place.ids(), sorted(blobs), "list")


async def a_list_starts_with_its_prefix(place: Place) -> None:
    """A list has the ids that begin with its prefix, wherever that ends."""
    for blob in ("packs/0a/0a1", "packs/0a/0a2", "packs/0b/0b1", "packs-old/1", "manifests/9/content"):
        await place.put(blob, b"x")
    packs = ["packs/0a/0a1", "packs/0a/0a2", "packs/0b/0b1"]
    expected = {
        "packs/": packs,
        "packs/0a/0a": packs[:2],
        "pa": ["packs-old/1", *packs],
        "packs/0b/0b1": packs[2:],
    }
    for prefix in ("packs/0c/", "packs/0a/0a1/", "q", "..", "/"):
        expected[prefix] = []
    for prefix, blobs in expected.items():
        demand_equal(await place.ids(prefix), blobs, f"the list of {prefix!r}")


async def a_list_goes_on_after_an_id(place: Place) -> None:
    """A list goes on after any id, whether there is such a blob or not."""
    blobs = sorted(f"{folder}/{n:02}" for folder in ("p", "p-q", "p/r") for n in range(5))
    for blob in blobs:
        await place.put(blob, b"x")
    for after in (*blobs, "", "o", "p", "p/", "p/02x", "p-q/99", "p/r/", "q"):
        expected = [blob for blob in blobs if blob > after]
        demand_equal(await place.ids(after=after), expected, f"the list after {after!r}")
    expected = ["p/04", *(f"p/r/{n:02}" for n in range(5))]
    demand_equal(await place.ids("p/", after="p/03"), expected, "the list of 'p/' after 'p/03'")
    demand_equal(await place.ids("p-", after="p/"), [], "the list of 'p-' after 'p/'")


async def a_list_beside_changes_gives_the_others_exactly_once(place: Place) -> None:
    """A list beside changes gives all blobs that do not change exactly once."""
    stable = [f"{n % 4}/{n:02}" for n in range(20)]
    for blob in stable:
        await place.put(blob, b"x")

    async def change() -> None:
        for n in range(20):
            await place.put(f"{n % 4}/new-{n:02}", b"x")
            await place.delete(f"{n % 4}/new-{n:02}")

    changing = asyncio.create_task(change())
    try:
        while not changing.done():
            await asyncio.sleep(0)
            listed = [blob for blob in await place.ids() if "new" not in blob]
            demand_equal(listed, sorted(stable), "list")
    finally:
        changing.cancel()
        await asyncio.wait([changing])
    if not changing.cancelled():
        changing.result()


async def a_list_may_be_left_early(place: Place) -> None:
    """A list may be left before its end."""
    for n in range(5):
        await place.put(f"folder/{n}", b"x")
    listing = place.store.list(place.prefix)
    demand_equal((await anext(listing)).id, place.id("folder/0"), "the first")
    await listing.aclose()  # type: ignore[attr-defined]  # every async generator has it
    demand_equal(len(await place.ids()), 5, "blobs of the next list")


async def usage_follows_what_is_stored(place: Place) -> None:
    """The bytes that the store says are used follow what is stored."""
    if place.prefix:
        raise NotOffered("others may write at the same time")
    before = await place.store.usage()
    await place.put(BLOB, random.Random(19).randbytes(MIB))
    full = await place.store.usage()
    await place.delete(BLOB)
    after = await place.store.usage()
    for number in (before.used_bytes, before.free_bytes, full.free_bytes):
        demand(number is None or number >= 0, f"{number} bytes")
    if before.used_bytes is not None and full.used_bytes is not None:
        demand(full.used_bytes - before.used_bytes >= MIB, "a blob of 1 MiB does not count")
        demand_equal(after.used_bytes, before.used_bytes, "bytes that are used after the deletion")
