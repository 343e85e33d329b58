"""HTML out of untrusted text: whatever is no ``Html`` is escaped, always.

There is no template that could forget it. A pack's sentences come from merchants and operators;
besides markup, characters that change the order of reading or hide text are made visible.
"""

import html
import re
from dataclasses import dataclass
from typing import Final

_CONTROLS: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f"
_INVISIBLE: Final = r"\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
_HIDDEN: Final = re.compile(f"[{_CONTROLS}{_INVISIBLE}]")
_TAG: Final = re.compile(r"[a-z][a-z0-9]{0,9}")
_VOID: Final = frozenset({"meta", "br"})


@dataclass(frozen=True)
class Html:
    """Markup that is safe to write."""

    text: str


Child = Html | str


def el(tag: str, *children: Child, **attributes: str) -> Html:
    """An element; an attribute ``class_`` is written as ``class``.

    Raises:
        ValueError: the tag is none that this program may write.
    """
    if not _TAG.fullmatch(tag) or tag in ("script", "iframe", "object", "embed", "link", "img"):
        raise ValueError(f"{tag!r} is not an element of a report")
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for name, value in attributes.items()
    )
    if tag in _VOID:
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{joined(*children).text}</{tag}>")


def joined(*children: Child) -> Html:
    """One after the other."""
    return Html("".join(one.text if isinstance(one, Html) else escaped(one) for one in children))


def escaped(text: str) -> str:
    """Text as it may stand between tags and within quoted attributes."""
    return html.escape(_HIDDEN.sub("\N{REPLACEMENT CHARACTER}", text), quote=True)


def table(heads: list[str], rows: list[list[Child]], *, kind: str = "") -> Html:
    """A table whose head is repeated on each printed page."""
    head = el("thead", el("tr", *(el("th", one, scope="col") for one in heads)))
    body = el("tbody", *(el("tr", *(el("td", cell) for cell in row)) for row in rows))
    return el("table", head, body, class_=kind or "grid")


def facts(rows: list[tuple[str, Child]]) -> Html:
    """A table of names and values."""
    lines = (el("tr", el("th", name, scope="row"), el("td", value)) for name, value in rows)
    return el("table", el("tbody", *lines), class_="facts")


def code(text: str) -> Html:
    """A digest or a name as machines write it."""
    return el("code", text)


def paragraphs(*texts: str) -> Html:
    """Each in a paragraph of its own."""
    return joined(*(el("p", text) for text in texts))


def bullets(texts: list[str]) -> Html:
    """An unordered list."""
    return el("ul", *(el("li", text) for text in texts))
