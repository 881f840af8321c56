"""OVA packages for tests, made with Python's tarfile."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence


def descriptor(
    disks: Mapping[str, int], *, compression: str = "", firmware: str = "", system: str = "Debian 12"
) -> bytes:
    """A descriptor like those of VMware; ``disks``: names of files and their sizes."""
    pressed = f' ovf:compression="{compression}"' if compression else ""
    files = "".join(
        f'<File ovf:id="file{number}" ovf:href="{name}" ovf:size="{size}"{pressed}/>'
        for number, (name, size) in enumerate(disks.items(), 1)
    )
    parts = "".join(
        f'<Disk ovf:diskId="vmdisk{number}" ovf:fileRef="file{number}" ovf:capacity="16"/>'
        for number in range(1, len(disks) + 1)
    )
    config = f'<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="{firmware}"/>'
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!--Made by a test-->
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
          xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>{files}</References>
  <DiskSection><Info>Disks</Info>{parts}</DiskSection>
  <VirtualSystem ovf:id="appliance">
    <Info>A virtual machine</Info><Name>appliance</Name>
    <OperatingSystemSection ovf:id="96"><Info>System</Info><Description>{system}</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>{config if firmware else ""}</VirtualHardwareSection>
  </VirtualSystem>
</Envelope>""".encode()


def manifest(members: Mapping[str, bytes], algorithm: str = "SHA256") -> bytes:
    lines = (
        f"{algorithm}({name})= {hashlib.new(algorithm, content).hexdigest()}\n"
        for name, content in members.items()
    )
    return "".join(lines).encode()


def tar_of(members: Sequence[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return file.getvalue()


def ova(
    disks: Mapping[str, bytes],
    *,
    algorithm: str = "SHA256",
    compression: str = "",
    firmware: str = "",
    system: str = "Debian 12",
    tar_format: int = tarfile.USTAR_FORMAT,
) -> bytes:
    """A package of ``disks``, files by their names; without a manifest when ``algorithm`` is empty."""
    sizes = {name: len(content) for name, content in disks.items()}
    text = descriptor(sizes, compression=compression, firmware=firmware, system=system)
    members: dict[str, bytes] = {"appliance.ovf": text}
    if algorithm:
        members["appliance.mf"] = manifest({"appliance.ovf": text, **disks}, algorithm)
    return tar_of([*members.items(), *disks.items()], tar_format)
