"""The rules of the data set on the site's disk."""

import json
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hansa.client import dataset
from hansa.client.dataset import Dataset, ingest, read_manifest
from hansa.client.ingest.pseudonyms import (
    PseudonymKey,
    create_key,
    read_key,
    read_or_create_key,
)
from hansa.client.ingest.report import QualityReport
from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError

NOW = datetime(2026, 11, 23, tzinfo=UTC)
KEY = PseudonymKey(secret=bytes(range(32)))
CATALOGUE = (
    "item_id,title,category_path,price\np1,Pizza,Food > Frozen,2\np2,披萨,食品,\np3,Peas,,1\n"
)
EVENTS = [
    "anna,2026-01-03,purchase,p3,q1,t1",
    "anna,2026-01-01,purchase,p1,,",
    "bert,2026-01-02,purchase,p2,,",
    "anna,2026-01-02,purchase,p1,,",
    "anna,2026-01-02,view,p2,,",
    "carl,2026-01-02,view,p2,,",
]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "c.csv").write_text(CATALOGUE, encoding="utf-8")
    return tmp_path / "site"


def run(site: Path, events: Sequence[str] = EVENTS, key: PseudonymKey = KEY) -> QualityReport:
    lines = ["shopper_id,time,kind,item_id,query,session_id", *events]
    path = site.parent / "e.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return ingest(site.parent / "c.csv", path, site, {}, NOW, key)


def test_each_shoppers_purchases_come_back_in_the_order_of_time(site: Path) -> None:
    report = run(site)
    loaded = Dataset.load(site)
    assert report.shoppers == 3
    assert dict(loaded.shoppers()) == {
        KEY.shopper("anna"): (0, 0, 2),
        KEY.shopper("bert"): (1,),
        KEY.shopper("carl"): (),
    }
    assert [item.title for item in loaded.items] == ["Pizza", "披萨", "Peas"]
    assert loaded.items[0].category_path == ("Food", "Frozen")
    assert loaded.items[1].price is None


def test_histories_are_a_sparse_matrix_by_ascending_pseudonym(site: Path) -> None:
    run(site)
    histories = Dataset.load(site).histories
    assert list(histories.pseudonyms) == sorted(histories.pseudonyms)
    assert histories.indptr.dtype == np.int64
    assert histories.indices.dtype == np.int32
    assert histories.indptr[0] == 0
    assert histories.indptr[-1] == len(histories.indices) == 4


def test_no_shopper_or_session_id_is_on_the_disk(site: Path) -> None:
    run(site, ["anna-secret,2026-01-01,purchase,p1,,session-secret"])
    loaded = pq.read_table(site / read_manifest(site).events.name)
    assert loaded["shopper"].to_pylist() == [KEY.shopper("anna-secret")]
    assert loaded["session"].to_pylist() == [KEY.session("session-secret")]
    assert not any(b"secret" in path.read_bytes() for path in site.iterdir())


def test_only_the_owner_may_read_the_files(site: Path) -> None:
    run(site)
    assert {stat.S_IMODE(path.stat().st_mode) for path in site.iterdir()} == {0o600}
    assert stat.S_IMODE(site.stat().st_mode) == 0o700


def test_the_same_exports_and_key_give_the_same_files_whatever_the_order_of_rows(
    site: Path,
) -> None:
    run(site)
    first = read_manifest(site)
    run(site, EVENTS[1:] + EVENTS[:1])
    assert read_manifest(site) == first


def test_pseudonyms_differ_between_sites_and_cannot_be_guessed_from_ids_alone(site: Path) -> None:
    other = PseudonymKey(secret=bytes(32))
    assert KEY.shopper("anna") != other.shopper("anna")
    assert KEY.shopper("anna") != KEY.session("anna")
    assert len(KEY.shopper("anna")) == 64
    assert "secret" not in repr(KEY)
    run(site)
    mine = {name for name, _ in Dataset.load(site).shoppers()}
    run(site, key=other)
    assert mine.isdisjoint(name for name, _ in Dataset.load(site).shoppers())


def test_a_new_ingest_replaces_the_data_set_and_keeps_the_last_one_for_its_readers(
    site: Path,
) -> None:
    run(site)
    old = read_manifest(site)
    run(site, EVENTS[:1])
    assert dict(Dataset.load(site).shoppers()) == {KEY.shopper("anna"): (2,)}
    assert (site / old.events.name).exists()
    run(site, EVENTS[:2])
    assert not (site / old.events.name).exists()
    assert len(list(site.glob("*.parquet"))) == 3


@pytest.mark.parametrize("step", ["_write", "write_atomically", "_sweep"])
def test_a_crash_at_any_step_leaves_a_whole_data_set(
    site: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    run(site)
    whole = dict(Dataset.load(site).shoppers())

    def crash(*_args: object, **_kwargs: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataset, step, crash)
        with pytest.raises(KeyboardInterrupt):
            run(site, EVENTS[:1])
    after = dict(Dataset.load(site).shoppers())
    assert after == (whole if step != "_sweep" else {KEY.shopper("anna"): (2,)})
    run(site)
    assert dict(Dataset.load(site).shoppers()) == whole


def test_a_bad_export_leaves_the_old_data_set(site: Path) -> None:
    run(site)
    before = read_manifest(site)
    with pytest.raises(InvalidInputError):
        run(site, ["anna,never,purchase,p1,,"])
    assert read_manifest(site) == before


def test_left_over_parts_of_a_crash_are_removed_by_the_next_ingest(site: Path) -> None:
    site.mkdir()
    (site / ".events.1.part").write_bytes(b"half")
    run(site)
    assert not list(site.glob(".*.part"))


def test_a_full_disk_is_a_clear_error(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_kwargs: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "_write", full)
    with pytest.raises(InvalidInputError, match="No space left on device; mend the folder or free"):
        run(site)


def test_two_ingests_cannot_run_in_one_folder(site: Path) -> None:
    with dataset._locked(site), pytest.raises(ConflictError, match="another ingest runs"):
        run(site)


def test_a_site_without_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="run 'hansa-client ingest'"):
        Dataset.load(tmp_path)


@pytest.mark.parametrize("which", ["items", "events"])
def test_a_changed_or_missing_file_is_found_on_load(site: Path, which: str) -> None:
    run(site)
    path = site / getattr(read_manifest(site), which).name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match="changed after the ingest; ingest again"):
        Dataset.load(site)
    path.unlink()
    with pytest.raises(InvalidInputError, match="is missing"):
        Dataset.load(site)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"extra": 1},
        {"item_count": 0},
        {"items": {"name": "../../etc/passwd", "sha256": "0" * 64}},
    ],
)
def test_another_schema_or_a_name_outside_the_folder_is_refused(
    site: Path, change: dict[str, object]
) -> None:
    run(site)
    path = site / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidInputError, match="ingest again"):
        Dataset.load(site)


def test_an_event_of_an_item_that_is_not_there_is_refused_on_load(site: Path) -> None:
    run(site)
    table = pq.read_table(site / read_manifest(site).events.name)
    strange = table.set_column(3, "item", pa.array([99] * table.num_rows, pa.int32()))
    with pytest.raises(InvalidInputError, match="an item that is not there"):
        dataset._histories(strange, 3)


def test_a_shop_without_events_loads(site: Path) -> None:
    run(site, [])
    loaded = Dataset.load(site)
    assert list(loaded.shoppers()) == []
    assert loaded.histories.indptr.tolist() == [0]


def test_a_key_is_made_once_from_the_given_entropy_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "site" / "pseudonym.key"
    first = read_or_create_key(path, b"a" * 32)
    assert read_or_create_key(path, b"b" * 32) == first == read_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["pseudonym.key"]
    with pytest.raises(ConflictError):
        create_key(path, b"c" * 32)


def test_a_key_that_others_may_read_or_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    with pytest.raises(NotFoundError):
        read_key(path)
    create_key(path, b"a" * 32)
    path.chmod(0o644)
    with pytest.raises(InvalidInputError, match="chmod 600"):
        read_key(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(InvalidInputError, match="32 bytes long"):
        read_key(path)
    with pytest.raises(InvalidInputError, match="32 bytes long"):
        create_key(tmp_path / "other.key", b"")
