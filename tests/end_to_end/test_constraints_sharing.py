"""Table 5-3, row by row."""

from __future__ import annotations

from imsd.v1 import quota_pb2
from tests.end_to_end.constraints_world import (
    MEMBER,
    OWNER,
    accept,
    create_projects,
    limit,
    owned_image,
    set_column,
    share,
)
from tests.end_to_end.daemon_process import DaemonProcess, Stubs


async def test_table_5_3_maximum_number_of_tenants_an_image_can_be_shared_with(stubs: Stubs) -> None:
    assert await limit(stubs, "max_members_per_image") == 128
    names = [f"p{number:03}" for number in range(129)]
    await create_projects(stubs, *names)
    image = await owned_image(stubs)
    first, second = names[:100], names[100:]
    assert set(await share(stubs, image.id, *first)) == {"done"}
    assert await share(stubs, image.id, *second) == ["done"] * 28 + ["QUOTA_EXCEEDED"]


async def test_table_5_3_maximum_number_of_shared_images_that_a_tenant_can_receive(stubs: Stubs) -> None:
    """No limit: not even a project that may have no image of its own."""
    await create_projects(stubs, MEMBER)
    none = quota_pb2.SetQuotaRequest(project_id=MEMBER, resource="images", quota=0)
    await stubs.quotas.SetQuota(none)
    for number in range(6):
        image = await owned_image(stubs, name=f"disk {number}")
        assert await share(stubs, image.id, MEMBER) == ["done"]
        await accept(stubs, image.id)
    used = await stubs.quotas.GetQuotas(quota_pb2.GetQuotasRequest(project_id=MEMBER))
    assert {quota.used for quota in used.quotas} == {0}


async def test_table_5_3_private_image_status(daemon: DaemonProcess, stubs: Stubs) -> None:
    """Normal."""
    await create_projects(stubs, MEMBER)
    image = await owned_image(stubs)
    for status in ("queued", "saving", "deactivated"):
        set_column(daemon, image.id, "status", status)
        assert await share(stubs, image.id, MEMBER) == ["IMAGE_NOT_ACTIVE"]
    set_column(daemon, image.id, "status", "active")
    assert await share(stubs, image.id, MEMBER) == ["done"]


async def test_table_5_3_images_published_in_the_marketplace_cannot_be_shared(
    daemon: DaemonProcess, stubs: Stubs
) -> None:
    await create_projects(stubs, MEMBER)
    for column in ("is_published", "is_market_derived"):
        image = await owned_image(stubs)
        set_column(daemon, image.id, column, True)
        assert await share(stubs, image.id, MEMBER) == ["IMAGE_PUBLISHED"]
    assert await share(stubs, (await owned_image(stubs)).id, MEMBER, by=OWNER) == ["done"]
