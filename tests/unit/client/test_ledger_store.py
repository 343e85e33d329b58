import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hansa.client.ledger_store import KEY_NAME, LEDGER_NAME, LedgerStore, read_ledger
from hansa.core.errors import (
    BudgetExhaustedError,
    ConflictError,
    InvalidInputError,
    LedgerError,
    NotFoundError,
)
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy.entries import Entry
from hansa.core.privacy.events import PoissonGaussian
from tests.fakes.entropy import SeededEntropy

NOW = datetime(2026, 11, 23, tzinfo=UTC)
TASK = TaskId("run-1/0/train/harbour")
STEP = PoissonGaussian(sampling_rate=0.05, noise_multiplier=1.0, steps=20)


def create(folder: Path, cap: float = 3.0) -> LedgerStore:
    return LedgerStore.create(folder, cap_epsilon=cap, delta=1e-5, entropy=SeededEntropy(), now=NOW)


def reserve(store: LedgerStore, task: TaskId = TASK) -> Entry:
    return store.reserve(
        task,
        plan_digest=Sha256("a" * 64),
        run=RunId("run-1"),
        round_number=0,
        phase="train",
        events=[STEP],
        now=NOW,
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    with create(tmp_path) as store:
        reserve(store)
        store.commit(TASK, sha256=Sha256("b" * 64), now=NOW)
    return tmp_path


def test_what_was_booked_is_there_after_a_restart(site: Path) -> None:
    with LedgerStore.open(site) as store:
        assert store.ledger.released(TASK) == "b" * 64
        assert [entry.body.kind for entry in store.ledger.entries] == ["open", "reserve", "commit"]
        store.raise_cap(5.0, now=NOW)
    assert read_ledger(site).cap_epsilon == 5.0


def test_an_entry_is_on_the_disk_when_the_verb_returns(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        entry = reserve(store)
        assert (tmp_path / LEDGER_NAME).read_bytes().splitlines()[-1] == entry.to_bytes()


def test_the_key_is_readable_by_its_owner_only(site: Path) -> None:
    assert stat.S_IMODE((site / KEY_NAME).stat().st_mode) == 0o600
    (site / KEY_NAME).chmod(0o640)
    with pytest.raises(LedgerError, match="chmod 600"):
        LedgerStore.open(site)


def test_a_second_writer_is_refused_in_one_sentence(site: Path) -> None:
    with (
        LedgerStore.open(site),
        pytest.raises(LedgerError, match="another process is writing the ledger"),
    ):
        LedgerStore.open(site)
    LedgerStore.open(site).close()


def test_a_writer_in_another_process_is_noticed(site: Path) -> None:
    code = "import sys; from pathlib import Path; from hansa.client.ledger_store import *\n"
    code += "store = LedgerStore.open(Path(sys.argv[1])); print('open', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(site)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(LedgerError, match="another process"):
            LedgerStore.open(site)
        holder.kill()
    LedgerStore.open(site).close()


def test_reading_needs_neither_the_key_nor_the_lock(site: Path) -> None:
    with LedgerStore.open(site):
        (site / KEY_NAME).unlink()
        assert read_ledger(site).spent_epsilon() > 0.5


def test_a_torn_last_line_is_dropped_by_the_next_writer(site: Path) -> None:
    path = site / LEDGER_NAME
    whole = path.read_bytes()
    last = whole.splitlines()[-1]
    for torn in (last[: len(last) // 2], b"{", bytes(300)):
        path.write_bytes(whole + torn)
        assert len(read_ledger(site).entries) == 3
        with LedgerStore.open(site) as store:
            assert len(store.ledger.entries) == 3
        assert path.read_bytes() == whole
    with LedgerStore.open(site) as store:
        store.raise_cap(9.0, now=NOW)
    assert len(read_ledger(site).entries) == 4


def test_a_whole_last_entry_without_its_line_end_is_kept(site: Path) -> None:
    path = site / LEDGER_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with LedgerStore.open(site) as store:
        assert len(store.ledger.entries) == 3
        store.raise_cap(9.0, now=NOW)
    assert path.read_bytes().startswith(whole)


def test_a_broken_line_before_the_last_is_never_repaired(site: Path) -> None:
    path = site / LEDGER_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    for broken in (
        lines[0] + lines[1][:40] + b"\n" + lines[2],
        lines[0] + b"\n" + lines[1] + lines[2],
        lines[0] + lines[2],
        lines[0] + lines[1] + lines[2].replace(b"b" * 64, b"c" * 64),
    ):
        path.write_bytes(broken)
        with pytest.raises(LedgerError):
            LedgerStore.open(site)
        assert path.read_bytes() == broken


def test_a_truncated_file_is_noticed_against_an_expected_head(site: Path) -> None:
    head = read_ledger(site).head
    path = site / LEDGER_NAME
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(LedgerError, match="truncated"):
        LedgerStore.open(site, expected_head=head)


def test_a_refusal_for_the_cap_is_booked_and_spends_nothing(tmp_path: Path) -> None:
    with create(tmp_path, cap=0.1) as store:
        for _ in range(2):
            with pytest.raises(BudgetExhaustedError):
                reserve(store)
    ledger = read_ledger(tmp_path)
    assert [entry.body.kind for entry in ledger.entries] == ["open", "refuse"]
    assert ledger.spent_epsilon() == 0.0


def test_a_disk_that_refuses_stops_the_work_and_the_store(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    other = TaskId("run-1/1/train/harbour")
    store = LedgerStore.open(site)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(LedgerError, match="nothing began"):
            reserve(store, other)
    with pytest.raises(LedgerError, match="closed"):
        reserve(store, other)
    assert store.ledger.reservation(other) is None
    LedgerStore.open(site).close()


def test_a_budget_cannot_be_reset_by_creating_the_ledger_again(site: Path) -> None:
    before = (site / LEDGER_NAME).read_bytes(), (site / KEY_NAME).read_bytes()
    with pytest.raises(ConflictError, match="cannot be reset"):
        create(site)
    assert before == ((site / LEDGER_NAME).read_bytes(), (site / KEY_NAME).read_bytes())


def test_a_crash_between_key_and_ledger_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / KEY_NAME).write_bytes(b"half a key")
    with create(tmp_path) as store:
        assert len(store.ledger.entries) == 1


def test_a_missing_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="join a federation first"):
        LedgerStore.open(tmp_path)
    with pytest.raises(NotFoundError, match="join a federation first"):
        read_ledger(tmp_path)
    with pytest.raises(InvalidInputError, match="delta"):
        LedgerStore.create(tmp_path, cap_epsilon=1.0, delta=2.0, entropy=SeededEntropy(), now=NOW)
    assert not list(tmp_path.iterdir())


def test_a_key_that_is_none_is_refused(site: Path) -> None:
    (site / KEY_NAME).write_bytes(b"no key")
    with pytest.raises(LedgerError, match="cannot be read"):
        LedgerStore.open(site)
