"""How a format refuses its files: the same words and hints for the same reason."""

from __future__ import annotations

from dataclasses import dataclass

from imsd.contract import ImageRefused


@dataclass(frozen=True, slots=True)
class Refusals:
    """``name``: the format. ``repair``: what to do with a malformed file of it."""

    name: str
    repair: str

    def malformed(self, what: str) -> ImageRefused:
        return ImageRefused(
            f"the {self.name} file is malformed: {what}", reason="IMAGE_MALFORMED", hint=self.repair
        )

    def truncated(self, what: str) -> ImageRefused:
        return ImageRefused(
            f"the {self.name} file is cut short: {what}",
            reason="IMAGE_TRUNCATED",
            hint="copy the file again from its origin",
        )

    def empty(self) -> ImageRefused:
        return ImageRefused(
            f"the disk in the {self.name} file has no byte",
            reason="IMAGE_EMPTY",
            hint="send a file that holds a disk",
        )

    def too_large(self, what: str) -> ImageRefused:
        return ImageRefused(
            f"the {self.name} file is too large: {what}",
            reason="IMAGE_TOO_LARGE",
            hint="write it anew with `qemu-img convert -O qcow2`",
        )

    def needs_another_file(self, what: str) -> ImageRefused:
        return ImageRefused(
            f"the {self.name} file needs another file below it: {what}",
            reason="IMAGE_BACKING_FILE",
            hint="merge the chain into one file, for example with `qemu-img convert -O qcow2`",
        )

    def encrypted(self) -> ImageRefused:
        return ImageRefused(
            f"the {self.name} file is encrypted",
            reason="IMAGE_ENCRYPTED",
            hint="decrypt it first with `qemu-img convert`",
        )

    def unknown_feature(self, what: str) -> ImageRefused:
        return ImageRefused(
            f"the {self.name} file uses what is not known: {what}",
            reason="IMAGE_UNKNOWN_FEATURE",
            hint="convert the image with the program that wrote it, for example to qcow2",
        )

    def unsupported(self, what: str) -> ImageRefused:
        return ImageRefused(
            f"{what} of {self.name} is not known",
            reason="FORMAT_UNSUPPORTED",
            hint="convert the image with `qemu-img convert -O qcow2`",
        )
