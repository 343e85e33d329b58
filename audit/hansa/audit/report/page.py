"""The report as one HTML file, in the order of NIST SP 800-226 and the DP deployments registry.

References:
    NIST SP 800-226, https://doi.org/10.6028/NIST.SP.800-226.
    DP deployments registry, transparency tiers, https://registry.opendp.org/transparency-tiers.
"""

from collections.abc import Callable, Sequence
from typing import Final

from hansa.audit.report import sections
from hansa.audit.report.dossier import Dossier
from hansa.audit.report.html import Child, Html, el, joined
from hansa.audit.report.style import CSS
from hansa.audit.report.words import WORDS, Language, Words

Section = Callable[[Dossier, Words], Child]

ORDER: Final[tuple[tuple[str, str, Section], ...]] = (
    ("identity", "1", sections.identity),
    ("claim", "2", sections.claim),
    ("unit", "2", sections.unit),
    ("relation", "2", sections.relation),
    ("scope", "3", sections.scope),
    ("mechanism", "2", sections.mechanism),
    ("accounting", "3", sections.accounting),
    ("code", "3", sections.code_identity),
    ("randomness", "3", sections.randomness),
    ("trust", "3", sections.trust),
    ("open", "3", sections.left_open),
    ("tests", "3", sections.tests),
    ("utility", "3", sections.utility),
    ("budget", "3", sections.budget),
    ("incidents", "3", sections.incidents),
    ("merchants", "3", sections.merchants),
    ("verification", "3", sections.verification),
    ("glossary", "", sections.glossary),
)
"""Name, lowest tier of the registry that asks for it, and what is written."""

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_UNVERIFIED: Final = frozenset(
    {
        "claim", "unit", "scope", "mechanism", "accounting",
        "code", "tests", "utility", "incidents", "merchants",
    }
)  # fmt: skip
"""Sections with figures; on a pack that failed each says that they are not verified."""


def page(dossier: Dossier, languages: Sequence[Language]) -> str:
    """The whole file: one article for each language; no script, nothing from elsewhere."""
    title = _title(dossier, WORDS[languages[0]])
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", Html(CSS)),
    )
    body = el("body", *(_article(dossier, WORDS[one]) for one in languages))
    whole = el("html", head, body, lang=WORDS[languages[0]]("lang"))
    return f"<!DOCTYPE html>\n{whole.text}\n"


def _title(dossier: Dossier, words: Words) -> str:
    return words("title", run=dossier.run) if dossier.run else words("title.unreadable")


def _article(dossier: Dossier, words: Words) -> Html:
    parts = list(ORDER) if dossier.run is not None else []
    head: list[Child] = [
        el("h1", _title(dossier, words)),
        el("p", words("subtitle"), class_="lead"),
        _verdict(dossier, words),
        el("p", words("made", when=f"{dossier.made:%Y-%m-%d %H:%M}", tool=dossier.tool),
           class_="made"),
    ]  # fmt: skip
    if parts:
        head.append(_contents(words))
    written = (_section(number, part, dossier, words) for number, part in enumerate(parts, start=1))
    return el("article", *head, *written, lang=words("lang"))


def _verdict(dossier: Dossier, words: Words) -> Html:
    if not dossier.passed:
        fault = words("verdict.failed.text", fault=dossier.first_fault or words("unknown"))
        return el(
            "div", el("strong", words("verdict.failed")), el("p", fault), class_="verdict failed"
        )
    absent = sum(one.absent for one in dossier.checks)
    text = words(
        "verdict.passed.text",
        count=len(dossier.checks) - absent,
        absent=absent,
        section=number_of("verification"),
    )
    verdict = el("div", el("strong", words("verdict.passed")), el("p", text), class_="verdict")
    return joined(verdict, _anchors(dossier, words))


def _anchors(dossier: Dossier, words: Words) -> Html:
    missing = []
    if dossier.manifest is not None and not dossier.root_pinned:
        missing.append(words("anchor.root"))
    if not dossier.plan_key_pinned:
        missing.append(words("anchor.plan"))
    if not dossier.witnessed:
        missing.append(words("anchor.checkpoint"))
    if not missing:
        return Html("")
    return el("p", words("verdict.unpinned", what=words("separator").join(missing)), class_="warn")


def _contents(words: Words) -> Html:
    anchor = words("lang")
    lines = (
        el("li", el("a", words(f"s.{name}"), href=f"#{anchor}-{name}")) for name, _, _ in ORDER
    )
    return el("nav", el("ol", *lines), aria_label=words("contents"))


def _section(number: int, part: tuple[str, str, Section], dossier: Dossier, words: Words) -> Html:
    name, tier, write = part
    tag: Child = el("small", words("tier", tier=tier)) if tier else ""
    heading = el("h2", el("span", f"{number}. {words(f's.{name}')}"), tag)
    warning: Child = ""
    if not dossier.passed and name in _UNVERIFIED:
        warning = el("p", words("verdict.failed.numbers"), class_="unverified")
    return el("section", heading, warning, write(dossier, words), id=f"{words('lang')}-{name}")


def number_of(section: str) -> int:
    """The number under which a section stands."""
    return 1 + [name for name, _, _ in ORDER].index(section)
