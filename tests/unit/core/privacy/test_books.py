"""Books of the first version, and one's own book read the short way: the same, and as strict."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.core.canonical import canonical_json
from hansa.core.contract import Contract
from hansa.core.errors import LedgerError
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy.accounting import epsilon_pld
from hansa.core.privacy.entries import Entry
from hansa.core.privacy.events import Gaussian, PoissonGaussian
from hansa.core.privacy.ledger import Ledger, open_ledger
from hansa.core.privacy.own_book import read_own_book
from hansa.core.signing import key_id_of, signing_key
from tests.fakes.entropy import SeededEntropy

FIRST_VERSION = (Path(__file__).parent / "books" / "first-version.jsonl").read_bytes()
NOW = datetime(2026, 11, 23, 9, 30, 0, 137, tzinfo=UTC)
KEY = signing_key(b"k" * 32)


def every_kind() -> Ledger:
    """A book with an entry of every kind."""
    ledger = open_ledger(cap_epsilon=1.0, delta=1e-5, key=KEY, entropy=SeededEntropy(1), now=NOW)
    ledger.accept(Contract(hours={"mon": ("01:00-02:30",)}, month_epsilon=0.9), offer=3, now=NOW)
    step = PoissonGaussian(sampling_rate=0.05, noise_multiplier=2.0, steps=1)
    for number in (1, 2):
        name = TaskId(f"run-0001/{number}/train/mill")
        facts = {"run": RunId("run-0001"), "round_number": number, "phase": "train"}
        ledger.reserve(name, plan_digest=Sha256("a" * 64), events=[step], now=NOW, **facts)
    ledger.commit(TaskId("run-0001/1/train/mill"), sha256=Sha256("b" * 64), now=NOW)
    ledger.release(TaskId("run-0001/2/train/mill"), now=NOW)
    report = Gaussian(noise_multiplier=1.0, releases=1)
    more = {"plan_digest": Sha256("a" * 64), "run": RunId("run-0001")}
    over = TaskId("run-0001/0/evaluate/mill")
    ledger.refuse(over, phase="evaluate", events=[report], now=NOW, **more)
    ledger.declare(
        TaskId("g-0001/1/train/mill"),
        app="a:b",
        round_number=1,
        phase="train",
        sha256=Sha256("c" * 64),
        now=NOW,
        **more,
    )
    ledger.raise_cap(2.0, now=NOW)
    return ledger


def lines(ledger: Ledger) -> bytes:
    return b"".join(entry.to_bytes() + b"\n" for entry in ledger.entries)


WHOLE = lines(every_kind())


class TestABookOfTheFirstVersion:
    def test_it_verifies_signature_by_signature(self) -> None:
        entries = [Entry.parse(line, "line") for line in FIRST_VERSION.splitlines()]
        ledger = Ledger(entries)
        assert (len(entries), ledger.cap_epsilon) == (12, 4.5)
        assert ledger.released(TaskId("autumn-0001/3/train/harbour")) == "3" * 64

    def test_it_opens_as_ones_own_and_every_byte_is_kept(self) -> None:
        entries = read_own_book(FIRST_VERSION)
        assert b"".join(entry.to_bytes() + b"\n" for entry in entries) == FIRST_VERSION

    def test_it_is_under_the_default_contract_and_costs_what_it_did(self) -> None:
        ledger = Ledger(read_own_book(FIRST_VERSION), verified=True)
        assert ledger.accepted is None
        assert ledger.contract == Contract()
        three_rounds = PoissonGaussian(sampling_rate=0.05, noise_multiplier=1.0, steps=60)
        report = Gaussian(noise_multiplier=5.0, releases=1)
        assert ledger.spent_epsilon() == epsilon_pld([three_rounds, report], 1e-5)
        assert ledger.spent_epsilon() == pytest.approx(2.9586, abs=2e-3)

    def test_a_correction_of_its_clock_is_no_fault(self) -> None:
        times = [entry.time for entry in read_own_book(FIRST_VERSION)]
        assert times != sorted(times)


class TestOnesOwnBook:
    def test_what_was_read_the_short_way_is_what_the_long_way_reads(self) -> None:
        short = read_own_book(WHOLE, public_key=key_id_of(KEY))
        assert short == [Entry.parse(line, "line") for line in WHOLE.splitlines()]
        assert Ledger(short).events == every_kind().events

    def test_an_entry_of_any_kind_has_its_rfc_8785_form(self) -> None:
        for line in WHOLE.splitlines():
            assert canonical_json(json.loads(line)) == line
            entry = Entry.parse(line, "line")
            assert entry.to_bytes() == line
            assert entry.true_hash() == entry.hash

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_no_single_changed_byte_of_what_is_said_passes(self, data: st.DataObject) -> None:
        where = data.draw(st.integers(0, len(WHOLE) - 1))
        if _within_an_older_signature(where):
            return
        changed = bytearray(WHOLE)
        changed[where] ^= data.draw(st.integers(1, 255))
        with pytest.raises(LedgerError):
            read_own_book(bytes(changed))

    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def test_a_changed_signature_of_an_older_entry_is_found_by_whoever_receives_the_book(
        self, data: st.DataObject
    ) -> None:
        older = [at for at in range(len(WHOLE)) if _within_an_older_signature(at)]
        where = data.draw(st.sampled_from(older))
        changed = bytearray(WHOLE)
        changed[where] = ord("0") if changed[where] != ord("0") else ord("1")
        with pytest.raises(LedgerError, match="not signed by the ledger's key"):
            Ledger([Entry.parse(line, "line") for line in bytes(changed).splitlines()])

    @pytest.mark.parametrize("at", range(1, len(WHOLE.splitlines())))
    def test_a_dropped_a_repeated_or_a_swapped_entry_is_named(self, at: int) -> None:
        rows = WHOLE.splitlines(keepends=True)
        for broken in (
            rows[: at - 1] + rows[at:],
            [*rows[:at], rows[at - 1], *rows[at:]],
            [*rows[: at - 1], rows[at], rows[at - 1], *rows[at + 1 :]],
        ):
            with pytest.raises(LedgerError, match=rf"ledger entry {at - 1}|ledger entry {at}"):
                read_own_book(b"".join(broken))

    def test_an_end_that_another_key_signed_is_refused(self) -> None:
        rows = WHOLE.splitlines(keepends=True)
        last = Entry.parse(rows[-1][:-1], "line")
        forged = last.model_copy(update={"signature": "0" * 128}).to_bytes() + b"\n"
        with pytest.raises(LedgerError, match=r"ledger entry 8: it is not signed"):
            read_own_book(b"".join([*rows[:-1], forged]))
        with pytest.raises(LedgerError, match="is kept under key"):
            read_own_book(WHOLE, public_key="0" * 64)

    def test_an_empty_book_is_refused(self) -> None:
        with pytest.raises(LedgerError, match="even its first entry was dropped"):
            read_own_book(b"")


def _within_an_older_signature(at: int) -> bool:
    """Whether this byte belongs to a signature that is not the first entry's or the last one's."""
    row = WHOLE[:at].count(b"\n")
    if row in (0, len(WHOLE.splitlines()) - 1):
        return False
    begin = WHOLE.rfind(b"\n", 0, at) + 1
    line = WHOLE[begin : WHOLE.index(b"\n", begin)] if at < len(WHOLE) else b""
    mark = begin + line.index(b'"signature":"') + len(b'"signature":"')
    return mark <= at < mark + 128
