"""How a format refuses its files: the same words for the same reason."""

from __future__ import annotations

from dataclasses import dataclass

from imsd.contract import ImageRefused


@dataclass(frozen=True, slots=True)
class Refusals:
    """``name``: the format. ``repair``: what to do with a malformed file of it.

    ``convert``: how to get another file of the same disk, in words that follow a colon.
    """

    name: str
    repair: str
    convert: str

    def malformed(self, what: str) -> ImageRefused:
        return ImageRefused(
            f"the {self.name} file is malformed: {what}", reason="IMAGE_MALFORMED", hint=self.repair
        )

    def check_power_of_two(self, value: int, least: int, most: int, what: str) -> None:
        """Raises ImageRefused (IMAGE_MALFORMED) unless ``value`` is one from ``least`` to ``most``."""
        if not least <= value <= most or value & (value - 1):
            raise self.malformed(f"{what} is {value}, not a power of two from {least} to {most}")

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
            hint=self.convert,
        )

    def needs_another_file(self, what: str) -> ImageRefused:
        return ImageRefused(
            f"the {self.name} file needs another file below it: {what}",
            reason="IMAGE_BACKING_FILE",
            hint=f"merge the chain into one file: {self.convert}",
        )

    def encrypted(self) -> ImageRefused:
        return ImageRefused(
            f"the {self.name} file is encrypted",
            reason="IMAGE_ENCRYPTED",
            hint=f"decrypt it: {self.convert}",
        )

    def unknown_feature(self, what: str) -> ImageRefused:
        return ImageRefused(
            f"the {self.name} file uses what is not known: {what}",
            reason="IMAGE_UNKNOWN_FEATURE",
            hint=self.convert,
        )

    def unsupported(self, what: str) -> ImageRefused:
        return ImageRefused(
            f"{what} of {self.name} is not known", reason="FORMAT_UNSUPPORTED", hint=self.convert
        )
