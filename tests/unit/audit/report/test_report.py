"""The regulator pack: it says what was verified, says so where it was not, and believes no text."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hansa.audit.cli import app
from hansa.audit.report import texts_en, texts_zh
from hansa.audit.report.dossier import Dossier, Happening
from hansa.audit.report.html import el, escaped
from hansa.audit.report.page import ORDER, number_of, page
from hansa.audit.report.plain import found, meaning_of
from hansa.audit.report.sections import _CODE, _MERCHANTS, _TESTS, _UNIT, MOST_INCIDENTS
from hansa.audit.report.words import percent, plain, times
from hansa.audit.report.writer import Anchors, examine, write_report
from hansa.core.evidence import Evidence, RoundRecord, write_pack
from hansa.core.release import epsilon_text
from hansa.core.signing import key_id_of
from tests.fakes.audit_world import PLAN_KEY, AuditWorld, seen

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
FIELD = re.compile(r"\{(\w+)\}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("audit"), stated=True)


@pytest.fixture(scope="module")
def dossier(world: AuditWorld) -> Dossier:
    return examined(world.logged())


def examined(evidence: Evidence, anchors: Anchors | None = None) -> Dossier:
    return examine(write_pack(evidence, PLAN_KEY), anchors or Anchors(), now=NOW)


class Reader(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


class TestTheWords:
    def test_both_languages_have_the_same_texts_with_the_same_places_for_values(self) -> None:
        assert texts_en.TEXTS.keys() == texts_zh.TEXTS.keys()
        for key, text in texts_en.TEXTS.items():
            assert set(FIELD.findall(text)) == set(FIELD.findall(texts_zh.TEXTS[key])), key

    def test_no_text_was_left_in_the_other_language(self) -> None:
        chinese = re.compile(r"[\u4e00-\u9fff]")
        assert not [key for key, text in texts_en.TEXTS.items() if chinese.search(text)]
        without = {key for key, text in texts_zh.TEXTS.items() if not chinese.search(text)}
        assert without == {"lang", "m.delta", "separator", "g.epsilon", "g.delta"}

    def test_every_check_of_the_verifier_has_a_chinese_name(self, dossier: Dossier) -> None:
        assert {one.name for one in dossier.checks} <= texts_zh.CHECKS.keys()

    def test_every_kind_of_incident_and_every_key_of_a_statement_has_words(
        self, dossier: Dossier
    ) -> None:
        source = Path(sys.modules["hansa.audit.report.dossier"].__file__ or "").read_text()
        kinds = set(re.findall(r'kind="([a-z-]+)"', source))
        assert len(kinds) == 8
        known = texts_en.TEXTS.keys()
        assert {f"incident.{kind}" for kind in kinds} <= known
        assert dossier.statement is not None
        keys = [f"cover.{one}" for one in dossier.statement["covers"]]
        keys += [f"open.{one}" for one in dossier.statement["not_protected"]]
        keys += [f"test.{one}" for one in dossier.statement["checks"]]
        assert set(keys) <= known

    def test_sections_refer_to_each_other_by_their_true_numbers(self) -> None:
        named = [("tests", _TESTS), ("code", _CODE), ("merchants", _MERCHANTS), ("unit", _UNIT)]
        assert [number_of(name) for name, _ in named] == [number for _, number in named]


class TestPlainWords:
    def test_epsilon_zero_leaves_the_attacker_with_guessing(self) -> None:
        meaning = meaning_of(0.0, 0.0)
        assert (meaning.odds_factor, meaning.right_guesses) == (1.0, 0.5)
        assert meaning.found_at == {"0.01": 0.01, "0.1": pytest.approx(0.1)}

    def test_numbers_that_can_be_checked_by_hand(self) -> None:
        # e = 2.71828: odds at most 2.718, right guesses e / (1 + e) = 0.73106
        meaning = meaning_of(1.0, 0.0)
        assert meaning.odds_factor == pytest.approx(2.71828, abs=1e-5)
        assert meaning.right_guesses == pytest.approx(0.73106, abs=1e-5)
        assert meaning.found_at["0.01"] == pytest.approx(0.0271828, abs=1e-6)
        assert found(8.0, 1e-5, 0.01) == pytest.approx(1 - (0.99 - 1e-5) / 2980.958, abs=1e-7)

    @pytest.mark.parametrize(
        ("epsilon", "band"), [(1.0, "strong"), (1.01, "reasonable"), (10.0, "reasonable"),
                              (10.01, "weak"), (1e6, "weak")],
    )  # fmt: skip
    def test_large_epsilon_is_not_called_strong(self, epsilon: float, band: str) -> None:
        meaning = meaning_of(epsilon, 1e-5)
        assert meaning.band == band
        assert meaning.right_guesses <= 1.0

    def test_bounds_are_rounded_up(self) -> None:
        assert percent(0.99966) == "99.97 %"
        assert percent(0.99999) == "100 %"
        assert percent(0.01) == "1 %"
        assert times(2.71828) == "2.72"
        assert times(2980.958) == "2,981"
        assert plain(1e-05) == "0.00001"
        assert plain(23580700.0) == "23,580,700"


class TestAVerifiedRun:
    def test_it_says_that_the_verification_passed_and_the_release_states(
        self, world: AuditWorld, dossier: Dossier
    ) -> None:
        html = page(dossier, ["en"])
        text = read(html).text
        epsilon = epsilon_text([world.true_epsilon()])
        assert "Verification passed" in text
        assert f"epsilon = {epsilon}, delta = 0.00001" in text
        assert "Not run. Nobody attacked this plan's training" in text
        assert "each update was reserved at the plan's cost" in text
        assert dossier.epsilon == epsilon
        assert "The trust anchors came with the pack itself" in text

    def test_anchors_from_elsewhere_need_no_warning(self, world: AuditWorld) -> None:
        evidence = world.logged()
        anchors = Anchors(
            root=world.releases.root,
            plan_key=key_id_of(PLAN_KEY),
            witnessed=[seen(world.leaves(), 5)],
        )
        html = page(examined(evidence, anchors), ["en"])
        assert "The trust anchors came with" not in html

    def test_all_sections_stand_in_their_order_in_both_languages(self, dossier: Dossier) -> None:
        reader = read(page(dossier, ["en", "zh"]))
        anchors = [facts["id"] for tag, facts in reader.tags if tag == "section"]
        names = [name for name, _, _ in ORDER]
        assert anchors == [f"en-{name}" for name in names] + [f"zh-Hans-{name}" for name in names]
        assert [facts["lang"] for tag, facts in reader.tags if tag == "article"] == [
            "en", "zh-Hans",
        ]  # fmt: skip
        assert "核验通过" in reader.text

    def test_it_refers_to_nothing_outside_and_runs_nothing(self, dossier: Dossier) -> None:
        html = page(dossier, ["en", "zh"])
        for tag, facts in read(html).tags:
            assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base")
            assert "src" not in facts
            assert (facts.get("href") or "#").startswith("#")
            assert not [name for name in facts if name.startswith("on")]
        assert "url(" not in html
        assert "@import" not in html
        assert "default-src &#x27;none&#x27;" in html

    def test_the_figures_are_json_and_the_same(self, dossier: Dossier, tmp_path: Path) -> None:
        html, figures = write_report(dossier, tmp_path / "out", ["en"])
        value = json.loads(figures.read_text())
        assert value["passed"] is True
        assert [one["merchant"] for one in value["merchants"]] == ["harbour", "market"]
        assert Dossier.model_validate(value) == dossier
        assert html.read_text() == page(dossier, ["en"])

    def test_the_same_pack_at_the_same_time_is_the_same_report(self, world: AuditWorld) -> None:
        evidence = world.logged()
        assert page(examined(evidence), ["zh"]) == page(examined(evidence), ["zh"])

    def test_a_release_of_before_statements_says_that_it_has_none(self, world: AuditWorld) -> None:
        release = world.publish(epsilon=epsilon_text([world.true_epsilon()]))
        html = page(examined(world.evidence(release=release)), ["en"])
        assert "The release has none: it was made before releases had one." in read(html).text


class TestIncidents:
    def changed(self, world: AuditWorld, **changes: object) -> Dossier:
        rounds = list(world.run.rounds)
        rounds[2] = RoundRecord.model_validate({**rounds[2].model_dump(), **changes})
        return examined(world.evidence(run=world.run.model_copy(update={"rounds": tuple(rounds)})))

    def test_raised_caps_and_answers_that_did_not_count_are_listed(self, world: AuditWorld) -> None:
        ledger = world.ledger("harbour")
        ledger.raise_cap(9.0, now=NOW)
        ledgers = {**{name: one.entries for name, one in world.ledgers.items()},
                   "harbour": ledger.entries}  # fmt: skip
        dossier = examined(world.evidence(ledgers=ledgers))
        raised = [one for one in dossier.incidents if one.kind == "cap-raised"]
        assert [(one.who, one.detail) for one in raised] == [("harbour", "9")]
        accepted = {"harbour": world.run.rounds[2].accepted["harbour"]}
        late = self.changed(world, accepted=accepted, refused={"market": "deadline: too late"})
        assert Happening(
            kind="answer-not-counted", who="market", where="1", detail="deadline"
        ) in late.incidents  # fmt: skip

    def test_a_long_list_is_cut_in_print_and_whole_in_the_figures(self, dossier: Dossier) -> None:
        many = tuple(
            Happening(kind="refund", who="harbour", where=str(number)) for number in range(100)
        )
        long = dossier.model_copy(update={"incidents": many})
        assert f"and {100 - MOST_INCIDENTS} more" in page(long, ["en"])
        assert len(json.loads(long.model_dump_json())["incidents"]) == 100


class TestAFailedVerification:
    def test_it_says_so_on_top_and_explains_no_figure(self, world: AuditWorld) -> None:
        release = world.publish(stated={}, epsilon="0.1")
        html = page(examined(world.evidence(release=release)), ["en"])
        text = read(html).text
        assert text.index("VERIFICATION FAILED") < text.index("What was released")
        assert "release/manifest.json: epsilon is not understated" in text
        assert text.count("Not verified. The figures below are what the pack states") == 10
        assert "differentially private: epsilon" not in text
        assert "The evidence does not support that" in text
        assert "In plain words" not in text
        assert "Verification passed" not in text

    def test_a_pack_that_does_not_open_yields_a_report_too(self, world: AuditWorld) -> None:
        pack = bytearray(world.pack())
        pack[len(pack) // 2] ^= 1
        dossier = examine(bytes(pack), Anchors(), now=NOW)
        assert not dossier.passed
        for language, words in (("en", "VERIFICATION FAILED"), ("zh", "核验未通过")):
            text = read(page(dossier, [language])).text  # type: ignore[list-item]
            assert words in text
            assert dossier.pack_sha256
        assert dossier.epsilon is None


HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\" onload=\"x"


class TestTextsFromThePack:
    def test_markup_in_any_field_of_the_evidence_stays_text(self, dossier: Dossier) -> None:
        row = dossier.merchants[0].model_copy(update={"merchant": HOSTILE})
        check = dossier.checks[0].model_copy(update={"detail": HOSTILE, "where": HOSTILE})
        hostile = dossier.model_copy(
            update={
                "run": HOSTILE,
                "plan_name": HOSTILE,
                "merchants": (row,),
                "checks": (check,),
                "incidents": (Happening(kind=HOSTILE, who=HOSTILE, detail=HOSTILE),),
                "not_protected": ("membership", HOSTILE),
                "covers": (HOSTILE,),
            }
        )
        html = page(hostile, ["en", "zh"])
        reader = read(html)
        assert "script" not in {tag for tag, _ in reader.tags}
        assert "img" not in {tag for tag, _ in reader.tags}
        assert not [facts for _, facts in reader.tags if any(name[:2] == "on" for name in facts)]
        assert reader.text.count("<script>alert('x')</script>") >= 16

    def test_a_refusal_with_markup_in_a_signed_pack_stays_text(self, world: AuditWorld) -> None:
        rounds = list(world.run.rounds)
        accepted = {"harbour": rounds[2].accepted["harbour"]}
        change = {"accepted": accepted, "refused": {"market": f"{HOSTILE}: {HOSTILE}"}}
        rounds[2] = RoundRecord.model_validate({**rounds[2].model_dump(), **change})
        run = world.run.model_copy(update={"rounds": tuple(rounds)})
        html = page(examined(world.evidence(run=run)), ["en"])
        assert "<script" not in html
        assert "&lt;script&gt;" in html

    def test_text_that_looks_like_a_template_is_not_filled_in(self, dossier: Dossier) -> None:
        strange = dossier.model_copy(update={"run": "{tool}{0.__class__}"})
        assert "{tool}{0.__class__}" in read(page(strange, ["en"])).text

    def test_characters_that_turn_or_hide_text_are_made_visible(self) -> None:
        assert escaped("epsilon \u202e9.0\u202c\u200b\x00") == "epsilon \ufffd9.0\ufffd\ufffd\ufffd"

    @pytest.mark.parametrize("tag", ["script", "img", "iframe", "a b", "SCRIPT", ""])
    def test_no_element_can_be_written_that_a_report_does_not_need(self, tag: str) -> None:
        with pytest.raises(ValueError, match="not an element of a report"):
            el(tag)

    def test_attributes_are_quoted(self) -> None:
        assert el("p", class_='"><script>').text == '<p class="&quot;&gt;&lt;script&gt;"></p>'


class TestTheCommand:
    def test_it_writes_both_files_and_ends_well(self, world: AuditWorld, tmp_path: Path) -> None:
        pack = tmp_path / "run.pack"
        pack.write_bytes(write_pack(world.logged(), PLAN_KEY))
        out = tmp_path / "report"
        ran = CliRunner().invoke(
            app, ["report", str(pack), "--out", str(out), "--language", "both"]
        )
        assert ran.exit_code == 0, ran.output
        assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json"]
        assert 'lang="zh-Hans"' in (out / "report.html").read_text()

    def test_a_failed_verification_is_reported_and_ends_with_13(
        self, world: AuditWorld, tmp_path: Path
    ) -> None:
        pack = tmp_path / "run.pack"
        pack.write_bytes(world.pack(release=world.publish(stated={}, epsilon="0.1")))
        ran = CliRunner().invoke(app, ["report", str(pack), "--out", str(tmp_path / "out")])
        assert ran.exit_code == 13
        assert "VERIFICATION FAILED" in (tmp_path / "out/report.html").read_text()

    def test_it_needs_no_torch_and_no_grpc(self) -> None:
        code = (
            "import sys\n"
            "class No:\n"
            "    def find_spec(self, name, *_):\n"
            "        if name.partition('.')[0] in ('torch', 'grpc', 'flwr', 'jinja2'):\n"
            "            raise ImportError(name)\n"
            "sys.meta_path.insert(0, No())\n"
            "import hansa.audit.report_cli\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
