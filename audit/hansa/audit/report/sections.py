"""What each section of the report writes."""

from typing import Any, Final

from hansa.audit.findings import Check
from hansa.audit.report.dossier import Dossier, Happening
from hansa.audit.report.html import Child, Html, bullets, code, el, facts, joined, paragraphs, table
from hansa.audit.report.plain import Meaning
from hansa.audit.report.words import Words, percent, plain, times
from hansa.core.statement import STATEMENT_NAME

MOST_INCIDENTS: Final = 60
"""So many are printed; the JSON has all."""

_TESTS, _CODE, _MERCHANTS, _UNIT = 12, 8, 16, 3
_GLOSSARY: Final = (
    "epsilon", "delta", "unit", "neighbours", "clip", "noise", "sampling",
    "accountant", "ledger", "log", "canary", "release",
)  # fmt: skip


def identity(dossier: Dossier, words: Words) -> Child:
    """Tier 1: who, what, for what, when."""
    rows: list[tuple[str, Child]] = [
        (words("identity.use"), words("identity.use.text")),
        (words("identity.curator"),
         words("identity.curator.text", key=(dossier.plan_key or "")[:16])),
        (words("identity.run"), code(dossier.run or "")),
        (words("identity.plan"), joined(dossier.plan_name or "", " ",
                                        code(dossier.plan_digest or ""))),
        (words("identity.release"), _release(dossier, words)),
    ]  # fmt: skip
    rows += _provenance(dossier.manifest or {}, words)
    rows += _statement(dossier, words)
    ended = words("identity.goes.on")
    if dossier.finished is not None:
        ended = f"{dossier.finished:%Y-%m-%d %H:%M}"
    began = "" if dossier.started is None else f"{dossier.started:%Y-%m-%d %H:%M}"
    rows.append((words("identity.period"), f"{began} \N{EN DASH} {ended}"))
    rows.append((words("identity.pack"), code(dossier.pack_sha256)))
    return facts(rows)


def _release(dossier: Dossier, words: Words) -> Child:
    manifest = dossier.manifest
    if manifest is None:
        return words("identity.release.none")
    created = str(manifest["created"])
    return f"{manifest['channel']} {manifest['version']} ({_minute(created)})"


def _statement(dossier: Dossier, words: Words) -> list[tuple[str, Child]]:
    manifest, statement = dossier.manifest, dossier.statement
    if manifest is None:
        return []
    facts_of = manifest["files"].get(STATEMENT_NAME)
    if facts_of is None or statement is None:
        return [(words("identity.statement"), words("identity.statement.none"))]
    count = words("identity.statement.text", count=len(statement["contributors"]))
    return [(words("identity.statement"), joined(code(facts_of["sha256"]), el("br"), count))]


def _provenance(manifest: dict[str, Any], words: Words) -> list[tuple[str, Child]]:
    rows: list[tuple[str, Child]] = []
    if "base_model" in manifest:
        base = manifest["base_model"]
        rows.append((words("identity.base"), joined(base["name"], " ", code(base["digest"]))))
        rows.append((words("identity.aggregate"), code(manifest["aggregate_sha256"])))
    for name in ("parent", "restores"):
        if manifest.get(name) is not None:
            rows.append((words(f"identity.{name}"), str(manifest[name])))
    return rows


def claim(dossier: Dossier, words: Words) -> Child:
    """The guarantee, and what it means in plain words."""
    if dossier.epsilon is None or dossier.delta is None or dossier.unit is None:
        return paragraphs(words("claim.none"))
    noun, delta = words.known("unit.word", dossier.unit), plain(dossier.delta)
    headline = _headline(dossier, words, noun)
    figures = {"unit": noun, "epsilon": dossier.epsilon, "delta": delta}
    if not dossier.passed:
        return joined(headline, paragraphs(words("claim.unsupported", **figures)))
    source = "claim.no.release" if dossier.manifest is None else "claim.release"
    stated = paragraphs(words("claim.text", **figures), words(source, section=_MERCHANTS))
    if dossier.meaning is None:
        return joined(headline, stated)
    return joined(headline, stated, _plain_words(dossier.meaning, words, noun, delta))


def _headline(dossier: Dossier, words: Words, noun: str) -> Html:
    cells = (
        (words("g.epsilon"), dossier.epsilon or ""),
        (words("g.delta"), plain(dossier.delta or 0.0)),
        (words("s.unit"), noun),
    )
    return el("div", *(el("div", el("span", name), el("b", value)) for name, value in cells),
              class_="headline")  # fmt: skip


def _plain_words(meaning: Meaning, words: Words, noun: str, delta: str) -> Html:
    limits = [
        words("claim.odds", odds=times(meaning.odds_factor)),
        words("claim.guess", share=percent(meaning.right_guesses)),
        *(
            words("claim.found", alarms=percent(float(alarms)), share=percent(share))
            for alarms, share in meaning.found_at.items()
        ),
        words("claim.delta", unit=noun, delta=delta),
    ]
    return joined(
        el("h3", words("claim.plain")),
        paragraphs(words("claim.plain.text", unit=noun)),
        bullets(limits),
        paragraphs(words("claim.bound"), words(f"claim.band.{meaning.band}", section=_TESTS)),
    )


def unit(dossier: Dossier, words: Words) -> Child:
    """Whose presence is hidden, and what several shops cost."""
    if dossier.unit is None:
        return paragraphs(words("unknown"))
    text = paragraphs(words.known("unit", dossier.unit))
    if not dossier.many_shops:
        return text
    rows: list[list[Child]] = [[shops, epsilon] for shops, epsilon in dossier.many_shops.items()]
    heads = [words("unit.many.shops"), words("unit.many.epsilon")]
    return joined(text, paragraphs(words("unit.many")), table(heads, rows, kind="numbers"))


def relation(dossier: Dossier, words: Words) -> Child:
    """Between which data sets."""
    return paragraphs(
        words("relation.text", unit=words.known("unit.word", dossier.unit or "shopper"))
    )


def scope(dossier: Dossier, words: Words) -> Child:
    """What epsilon counts, what it need not, and over which time."""
    first, last = dossier.first_entry, dossier.last_entry
    period = words("unknown")
    if first is not None and last is not None:
        period = words("scope.period", first=_minute(first), last=_minute(last))
    return joined(
        el("h3", words("scope.covers")),
        bullets([words.known("cover", key) for key in dossier.covers]),
        paragraphs(
            words("scope.not.covered"),
            period,
            words("scope.rounds", aggregated=dossier.aggregated, rounds=dossier.rounds),
        ),
    )


def mechanism(dossier: Dossier, words: Words) -> Child:
    """The public constants of the plan."""
    facts_of = dossier.mechanism
    if facts_of is None:
        return paragraphs(words("unknown"))
    plain = ("sampling_rate", "expected_shoppers", "records_per_shopper", "clip_norm",
             "noise_multiplier", "bands", "report_noise_multiplier")  # fmt: skip
    steps = words(
        "mech.steps.text",
        steps=facts_of["steps_per_round"],
        rounds=facts_of["planned_rounds"],
    )
    rows: list[tuple[str, Child]] = [
        (words("mech.sampler"), words.known("mech.sampler", facts_of["sampler"]))
    ]
    rows += [
        (words(f"mech.{name}"), _number(facts_of[name]))
        for name in plain
        if facts_of[name] is not None
    ]
    rows += [
        (words("mech.steps"), steps),
        (
            words("mech.noise"),
            words(f"mech.noise.{facts_of['noise']}", honest=facts_of["honest_shares"]),
        ),
        (words("mech.dropped"), words("mech.dropped.text")),
    ]
    return joined(paragraphs(words("mech.text")), facts(rows))


def accounting(dossier: Dossier, words: Words) -> Child:
    """Who computed epsilon, with which versions."""
    rows: list[list[Child]] = [
        [name, version, words.known("acc", name)]
        for name, version in sorted(dossier.accountants.items())
    ]
    heads = [words("acc.accountant"), words("acc.version"), words("acc.role")]
    return joined(paragraphs(words("acc.text")), table(heads, rows), paragraphs(words("acc.agree")))


def code_identity(dossier: Dossier, words: Words) -> Child:
    """Digests of what runs."""
    if not dossier.code:
        return paragraphs(words("code.none"))
    rows: list[list[Child]] = [
        [words.known("code.role", one.role), one.software, code(one.digest)] for one in dossier.code
    ]
    heads = [words("code.role"), words("code.software"), words("code.digest")]
    return joined(paragraphs(words("code.text")), table(heads, rows))


def randomness(dossier: Dossier, words: Words) -> Child:
    """Where chance comes from."""
    distributed = (dossier.mechanism or {}).get("noise") == "distributed"
    last = "random.distributed" if distributed else "random.limit"
    return paragraphs(words("random.text"), words(last))


def trust(dossier: Dossier, words: Words) -> Child:
    """Who has to be trusted, and with what."""
    facts_of = dossier.mechanism or {}
    seen = "trust.updates.sum" if facts_of.get("secure_aggregation") else "trust.updates.single"
    noise = words("trust.noise.local")
    if facts_of.get("noise") == "distributed":
        noise = words(
            "trust.noise.distributed",
            honest=facts_of["honest_shares"],
            colluders=facts_of["colluders"],
        )
    lines = [words("trust.raw"), words(seen), noise, words("trust.client"), words("trust.server")]
    return bullets([*lines, words("trust.log", witnessed=dossier.witnessed)])


def left_open(dossier: Dossier, words: Words) -> Child:
    """What the guarantee says nothing about."""
    return bullets(
        [
            words(f"open.{key}", unit=_UNIT) if f"open.{key}" in words.texts else key
            for key in dossier.not_protected
        ]
    )


def tests(dossier: Dossier, words: Words) -> Child:
    """What was tried out, and by whom."""
    statement = dossier.statement or {}
    own = [words.known("test", key) for key in statement.get("checks", ())]
    checked = bullets(own) if own else paragraphs(words("test.own.none"))
    return joined(
        paragraphs(words("test.code", section=_CODE)),
        el("h3", words("test.own")),
        checked,
        el("h3", words("test.empirical")),
        paragraphs(*_empirical(statement.get("empirical"), words)),
    )


def _empirical(result: dict[str, Any] | None, words: Words) -> list[str]:
    if result is None:
        return [words("test.empirical.none"), words("test.mia.none")]
    verdict = "passed" if result["passed"] else "failed"
    text = words(
        f"test.empirical.{verdict}",
        claimed=f"{result['claimed_epsilon']:.3f}",
        bound=f"{result['lower_bound']:.3f}",
        confidence=f"{result['confidence']:g}",
    )
    mia = result["mia"]
    if mia is None:
        return [text, words("test.mia.none")]
    figures = {"auc": "auc", "low": "auc_low", "high": "auc_high"}
    return [text, words("test.mia", **{key: f"{mia[name]:.3f}" for key, name in figures.items()})]


def utility(dossier: Dossier, words: Words) -> Child:
    """What the release gate measured, and what nobody did."""
    figures = (dossier.manifest or {}).get("fidelity", {})
    text = paragraphs(words("utility.text"))
    if not figures:
        return text
    rows: list[list[Child]] = [
        [words.known("fidelity", name), plain(value)] for name, value in sorted(figures.items())
    ]
    heads = [words("utility.figure"), words("utility.value")]
    return joined(text, table(heads, rows, kind="numbers"))


def budget(_dossier: Dossier, words: Words) -> Child:
    """Who may spend how much."""
    return paragraphs(words("budget.text"))


def incidents(dossier: Dossier, words: Words) -> Child:
    """What went otherwise than planned."""
    if not dossier.incidents:
        return paragraphs(words("incident.none"))
    shown = dossier.incidents[:MOST_INCIDENTS]
    heads = [words(f"incident.{name}") for name in ("what", "who", "where", "detail")]
    listed = table(heads, [_incident(one, words) for one in shown], kind="grid wide")
    more = len(dossier.incidents) - len(shown)
    if not more:
        return listed
    return joined(listed, el("p", words("incident.more", count=more), class_="note"))


def _incident(one: Happening, words: Words) -> list[Child]:
    return [words.known("incident", one.kind), one.who, one.where, one.detail]


def merchants(dossier: Dossier, words: Words) -> Child:
    """Each merchant's own figures."""
    if not dossier.merchants:
        return paragraphs(words("m.none"))
    names = ("merchant", "pld", "prv", "rdp", "cap", "delta", "run", "rounds", "booked")
    heads = [words(f"m.{name}") for name in names]
    rows: list[list[Child]] = [
        [
            one.merchant, one.pld, one.prv, one.rdp, one.cap, plain(one.delta), one.this_run,
            str(one.rounds), f"{one.reserved} / {one.committed} / {one.declared}",
        ]
        for one in dossier.merchants
    ]  # fmt: skip
    return joined(paragraphs(words("m.text")), table(heads, rows, kind="numbers"))


def verification(dossier: Dossier, words: Words) -> Child:
    """Every check with its result."""
    heads = [words(f"v.{name}") for name in ("result", "check", "where", "detail")]
    rows = [_check(one, words) for one in dossier.checks]
    return joined(
        paragraphs(words("v.text")),
        table(heads, rows, kind="checks"),
        el("p", words("v.repeat"), class_="note"),
    )


def _check(one: Check, words: Words) -> list[Child]:
    result = "absent" if one.absent else "passed" if one.passed else "failed"
    kinds = {"absent": "gone", "passed": "pass", "failed": "fail"}
    verdict = el("span", words(f"v.{result}"), class_=kinds[result])
    return [verdict, words.check(one.name), one.where, one.detail]


def glossary(_dossier: Dossier, words: Words) -> Child:
    """For readers who meet all this for the first time."""
    lines: list[Child] = []
    for key in _GLOSSARY:
        lines += [el("dt", words(f"g.{key}")), el("dd", words(f"g.{key}.text"))]
    return el("dl", *lines)


def _number(value: object) -> str:
    return plain(value) if isinstance(value, float) else str(value)


def _minute(moment: str) -> str:
    return f"{moment[:10]} {moment[11:16]} UTC"
