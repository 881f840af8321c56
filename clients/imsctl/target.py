"""The file a disk is written to: may it be, and in which format."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer
from ims_client import ClientError, LocalFileFailed

from imsd.v1 import image_pb2

from . import choice
from .json_fields import compression
from .session import Session

# Suffixes that are the name of a format need no entry.
SUFFIXES = {"img": "raw", "vpc": "vhd"}
WRITTEN = ("raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "zvhd", "zvhd2")
# Suffixes of what cannot be written: a raw disk of such a name would pass for something else.
UNWRITTEN = {
    **{"qcow": "qcow", "qed": "qed", "iso": "iso", "ova": "ova", "ovf": "ovf"},
    **{"hds": "parallels", "hdd": "parallels", "zip": "zip"},
    **{"gz": "gzip", "tgz": "gzip", "xz": "xz", "zst": "zstd", "bz2": "bzip2"},
}
# What `--smaller` asks for.
HINT = "--smaller"
SMALLER = {"qcow2": "zlib-small", "vmdk": "zlib-small"}


def target_format(file: str, wanted: str, option: str) -> image_pb2.DiskFormat.ValueType:
    """The ``wanted`` format, else the one that the suffix of ``file`` names, else RAW.

    Raises typer.BadParameter, ClientError (FORMAT_UNSUPPORTED).
    """
    suffix = Path(file).suffix.lower().removeprefix(".")
    if not wanted and suffix in UNWRITTEN:
        raise ClientError(
            "FORMAT_UNSUPPORTED",
            f"imsd cannot write {UNWRITTEN[suffix]} files, which .{suffix} stands for",
            f"say with {option} what {file} is to be: one of {', '.join(WRITTEN)}",
        )
    by_suffix = SUFFIXES.get(suffix, suffix)
    name = wanted or (by_suffix if by_suffix in WRITTEN else "raw")
    return image_pb2.DiskFormat.ValueType(choice.choose(image_pb2.DiskFormat, name, option))


def target_compression(format_name: str, method: str, *, is_smaller: bool) -> str:
    """The compression that ``--compress`` and ``--smaller`` ask for, empty when neither does.

    It is called as the formats call it: ``zlib-small``.

    Raises typer.BadParameter.
    """
    method = compression(choice.compression(method))
    if not is_smaller:
        return method
    if method:
        raise typer.BadParameter(f"is a choice of its own: leave out --compress {method}", param_hint=HINT)
    if format_name not in SMALLER:
        known = " and ".join(SMALLER)
        raise typer.BadParameter(
            f"{format_name} has no compression that makes it smaller: only {known} have", param_hint=HINT
        )
    return SMALLER[format_name]


def note_longer_disk(session: Session, format_name: str, virtual_size: int) -> None:
    """Tell that the disk in the file that was written is longer than ``virtual_size``, if it is."""
    if format_name != "vhd":
        return
    from imsd.formats.vhd_writer import SIZE_UNIT_BYTES

    if added := -virtual_size % SIZE_UNIT_BYTES:
        session.note(f"note: the VHD's disk is {added:,} bytes longer: VHD rounds up to whole MiB")


def check_target(file: str, *, may_replace: bool, option: str) -> None:
    """Raises LocalFileFailed, typer.BadParameter."""
    if file == "-":
        if sys.stdout.isatty():
            raise typer.BadParameter("a disk is not for a terminal: redirect it", param_hint=option)
        return
    path = Path(file)
    if path.is_dir():
        raise LocalFileFailed(f"{path} is a directory", "name the file to write")
    if path.exists() and not path.is_file():
        raise LocalFileFailed(f"{path} is not an ordinary file", f"write to it with `-` and > {path}")
    if path.exists() and not may_replace:
        raise LocalFileFailed(f"{path} exists", "use --force to replace it")
    if not os.access(path.resolve().parent, os.W_OK):
        raise LocalFileFailed(
            f"cannot write to {path.resolve().parent}", "choose a directory that exists and is yours"
        )
