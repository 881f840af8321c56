"""What the fake daemon says of itself: its catalogue, its drivers and one guest. See `fake_daemon`."""

from __future__ import annotations

from typing import Any

from imsd.v1 import catalog_pb2, catalog_pb2_grpc, driver_pb2, driver_pb2_grpc, guest_pb2, image_pb2
from tests.unit.clients.fake_state import PART_BYTES

GUEST = guest_pb2.GuestReport(
    is_inspected=True,
    is_verified=True,
    os_type=guest_pb2.OS_TYPE_LINUX,
    distribution="debian",
    name="Debian GNU/Linux 12 (bookworm)",
    version="12.11",
    os_version="Debian GNU/Linux 12.11 64bit",
    bits=64,
    architecture=guest_pb2.ARCHITECTURE_X86,
    boot_modes=[guest_pb2.BOOT_MODE_BIOS, guest_pb2.BOOT_MODE_UEFI],
    has_cloud_init=True,
    virtio_disk=guest_pb2.READINESS_READY,
    partitions=[
        guest_pb2.GuestPartition(number=1, size_bytes=1 << 30, type="83", file_system="ext4", used_as="/")
    ],
    findings=[
        guest_pb2.GuestFinding(
            code="FSTAB_BY_DEVICE_NAME",
            severity=guest_pb2.GuestFinding.SEVERITY_MAY_BLOCK_BOOT,
            message="/etc/fstab names /dev/sda1",
            remedy="use UUID=",
        )
    ],
)


class Catalog(catalog_pb2_grpc.CatalogServiceServicer):
    async def ListFormats(self, _request: Any, _: Any) -> catalog_pb2.ListFormatsResponse:
        raw = catalog_pb2.Format(
            disk_format=image_pb2.DISK_FORMAT_RAW, summary="the bytes", can_read=True, can_write=True
        )
        qcow2 = catalog_pb2.Format(
            disk_format=image_pb2.DISK_FORMAT_QCOW2,
            summary="QEMU copy-on-write",
            can_read=True,
            compressions=[image_pb2.COMPRESSION_ZSTD, image_pb2.COMPRESSION_ZLIB],
        )
        return catalog_pb2.ListFormatsResponse(formats=[raw, qcow2])

    async def ListOsVersions(
        self, request: catalog_pb2.ListOsVersionsRequest, _: Any
    ) -> catalog_pb2.ListOsVersionsResponse:
        debian = guest_pb2.OsVersion(
            platform="Debian",
            os_version="Debian GNU/Linux 10.x 64bit",
            os_type=guest_pb2.OS_TYPE_LINUX,
            bits=64,
            architecture=request.architecture or guest_pb2.ARCHITECTURE_X86,
            server_types=[request.server_type or "S6"],
            is_uefi_supported=request.is_uefi_supported,
            tables=["6-1"],
        )
        return catalog_pb2.ListOsVersionsResponse(os_versions=[debian])

    async def GetServiceInfo(self, _request: Any, _: Any) -> catalog_pb2.ServiceInfo:
        return catalog_pb2.ServiceInfo(
            version="9.9.9",
            region="local",
            max_virtual_size_bytes=1 << 46,
            max_upload_size_bytes=1 << 46,
            upload_part_size_bytes=PART_BYTES,
            max_running_create_jobs=40,
            default_store="main",
        )


class Drivers(driver_pb2_grpc.DriverServiceServicer):
    async def ListDrivers(self, _request: Any, _: Any) -> driver_pb2.ListDriversResponse:
        driver = driver_pb2.Driver(
            name="localfs",
            kind=driver_pb2.DRIVER_KIND_STORE,
            instance="main",
            state=driver_pb2.DRIVER_STATE_READY,
            summary="a directory",
            plugin="imsd-localfs 1",
            is_default=True,
            used_bytes=5 << 30,
            free_bytes=7 << 30,
        )
        return driver_pb2.ListDriversResponse(drivers=[driver])
