"""The elements of a small XML document, in order: as much of XML as a descriptor of a package needs.

There are no entities but the five of XML, no document types, no namespaces beyond leaving a prefix out, and
nothing is ever loaded. What is left out is refused or skipped; no document is expanded to more than its size.

Reference: Extensible Markup Language (XML) 1.0, fifth edition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from .refusals import Refusals

MAX_DEPTH = 64
MAX_ELEMENTS = 50_000
MAX_ATTRIBUTES = 64

# Characters that no document may hold or refer to.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAME = re.compile(r"[^\W\d][\w.\-]{0,127}(?::[^\W\d][\w.\-]{0,127})?")
_ATTRIBUTE = re.compile(r"\s+([^\W\d][\w.:\-]{0,127})\s*=\s*(?:\"([^\"<]*)\"|'([^'<]*)')")
_TAG_END = re.compile(r"\s*(/?)>")
_REFERENCE = re.compile(r"&([^;&]{0,16})(;?)")
_ENTITIES = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}
# What begins like the first is skipped to the end of the second.
_SKIPPED = (("<!--", "-->"), ("<?", "?>"))
_CDATA, _CDATA_END = "<![CDATA[", "]]>"


@dataclass(slots=True)
class Element:
    """``path``: local names from the root to this one. ``text``: without that of its children."""

    path: tuple[str, ...]
    attributes: dict[str, str]
    text: str = ""
    _pieces: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path[-1]


def elements(document: str, refusals: Refusals) -> Iterator[Element]:
    """Every element when it ends, children before their parent.

    Raises ImageRefused (IMAGE_MALFORMED), in the words of ``refusals``.
    """
    return _Parser(document, refusals).elements()


class _Parser:
    def __init__(self, document: str, refusals: Refusals) -> None:
        self._document = document
        self._refusals = refusals
        self._position = 0
        self._open: list[tuple[str, Element]] = []  # with the whole name
        self._count = 0

    def elements(self) -> Iterator[Element]:
        if found := _FORBIDDEN.search(self._document):
            raise self._refusals.malformed(f"its descriptor holds {found[0]!r}, which XML forbids")
        while (start := self._document.find("<", self._position)) >= 0:
            self._take_text(self._document[self._position : start])
            self._position = start
            if self._skip():
                continue
            ended = self._end_tag() if self._document.startswith("</", start) else self._start_tag()
            if ended:
                ended.text = "".join(ended._pieces).strip()
                yield ended
        self._take_text(self._document[self._position :])
        if self._open or not self._count:
            raise self._refusals.malformed("its descriptor ends inside an element")

    def _skip(self) -> bool:
        """Pass over a comment, an instruction or a section of text; whether there was one."""
        document = self._document
        if document.startswith(_CDATA, self._position):
            start = self._position
            self._pass(_CDATA_END)
            self._add(document[start + len(_CDATA) : self._position - len(_CDATA_END)])
            return True
        for begin, end in _SKIPPED:
            if document.startswith(begin, self._position):
                self._position += len(begin)
                self._pass(end)
                return True
        if document.startswith("<!", self._position):
            raise self._refusals.malformed("its descriptor declares a document type or entities")
        return False

    def _pass(self, end: str) -> None:
        found = self._document.find(end, self._position)
        if found < 0:
            raise self._refusals.malformed("its descriptor ends inside markup")
        self._position = found + len(end)

    def _start_tag(self) -> Element | None:
        """Returns the element if it ends at once."""
        name = self._name(1)
        attributes = self._attributes()
        closing = _TAG_END.match(self._document, self._position)
        if closing is None:
            raise self._refusals.malformed(f"the tag of an element {name!r} of its descriptor is none")
        self._position = closing.end()
        self._count += 1
        if self._count > MAX_ELEMENTS or len(self._open) >= MAX_DEPTH:
            raise self._refusals.malformed("its descriptor has too many elements")
        if not self._open and self._count > 1:
            raise self._refusals.malformed("its descriptor has more than one root")
        parent = self._open[-1][1].path if self._open else ()
        element = Element((*parent, _local(name)), attributes)
        if closing[1]:
            return element
        self._open.append((name, element))
        return None

    def _attributes(self) -> dict[str, str]:
        attributes: dict[str, str] = {}
        while found := _ATTRIBUTE.match(self._document, self._position):
            name = _local(found[1])
            if len(attributes) >= MAX_ATTRIBUTES or name in attributes:
                raise self._refusals.malformed("an element of its descriptor has too many attributes")
            value = found[2] if found[2] is not None else found[3]
            attributes[name] = self._unescaped(value)
            self._position = found.end()
        return attributes

    def _end_tag(self) -> Element:
        name = self._name(2)
        closing = _TAG_END.match(self._document, self._position)
        if closing is None or closing[1] or not self._open or self._open[-1][0] != name:
            raise self._refusals.malformed(f"an element {name!r} of its descriptor ends that did not begin")
        self._position = closing.end()
        return self._open.pop()[1]

    def _name(self, skip: int) -> str:
        found = _NAME.match(self._document, self._position + skip)
        if found is None:
            raise self._refusals.malformed("an element of its descriptor has no name")
        self._position = found.end()
        return found[0]

    def _take_text(self, text: str) -> None:
        if not self._open:
            if text.strip("\ufeff \t\r\n"):
                raise self._refusals.malformed("its descriptor has text outside of its elements")
            return
        self._add(self._unescaped(text))

    def _add(self, text: str) -> None:
        if self._open and text:
            self._open[-1][1]._pieces.append(text)

    def _unescaped(self, text: str) -> str:
        return _REFERENCE.sub(self._referred, text) if "&" in text else text

    def _referred(self, found: re.Match[str]) -> str:
        name, end = found.groups()
        if end and name in _ENTITIES:
            return _ENTITIES[name]
        number = re.fullmatch(r"#(?:x([0-9A-Fa-f]{1,6})|([0-9]{1,7}))", name) if end else None
        code = int(number[1], 16) if number and number[1] else int(number[2]) if number else 0
        if not 0 < code <= 0x10FFFF or _FORBIDDEN.match(chr(code)):
            raise self._refusals.malformed("its descriptor refers to what XML does not have")
        return chr(code)


def _local(name: str) -> str:
    return name.rpartition(":")[2]
