"""One shop's ingested data on its own disk: items and events as Parquet, shoppers under pseudonyms.

``dataset.json`` is the single point of commitment. It names the two Parquet files, whose names
carry their digests, and is replaced in one step after both are on the disk: a crash before that
leaves the old data set, a crash after it the new one. Only the owner may read the files, and none
leaves the site.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.client.ingest.event_table import EVENT_SCHEMA, EventColumns
from hansa.client.ingest.pipeline import Ingestion
from hansa.client.ingest.pseudonyms import PseudonymKey
from hansa.client.ingest.report import QualityReport
from hansa.core.canonical import canonical_json, parse_json
from hansa.core.catalogue import Item
from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError
from hansa.core.storage import file_sha256, fsync_directory, write_atomically

SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "dataset.json"

_OWNER_ONLY = 0o600
_LOCK = ".ingest.lock"
_DATA_FILES = ("items-*.parquet", "events-*.parquet", ".items.*.part", ".events.*.part")
_ITEM_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("brand", pa.string()),
        ("category_path", pa.list_(pa.string())),
        ("price", pa.float64()),
        ("currency", pa.string()),
        ("available", pa.bool_()),
    ]
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataFile(_Part):
    """One Parquet file of the data set."""

    name: Annotated[str, Field(pattern=r"^(items|events)-[0-9a-f]{16}\.parquet$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DatasetManifest(_Part):
    """What ``dataset.json`` says; the counts are exact, private, and for this site alone."""

    schema_version: Literal[1] = SCHEMA_VERSION
    items: DataFile
    events: DataFile
    item_count: Annotated[int, Field(ge=1)]
    event_count: Annotated[int, Field(ge=0)]
    shopper_count: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Histories:
    """What each shopper bought, in the order of time, as a compressed sparse row matrix."""

    pseudonyms: tuple[str, ...]
    """In ascending order, which no time or id determines."""
    indptr: npt.NDArray[np.int64]
    """``(shoppers + 1,)``: shopper ``i`` owns ``indices[indptr[i]:indptr[i + 1]]``."""
    indices: npt.NDArray[np.int32]
    """``(purchases,)``: places in the items' list."""

    def of(self, shopper: int) -> npt.NDArray[np.int32]:
        """The items of one shopper, oldest first; an item bought twice stands there twice."""
        return self.indices[self.indptr[shopper] : self.indptr[shopper + 1]]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A shop's items and its shoppers' purchases, in memory and unchangeable."""

    manifest: DatasetManifest
    items: tuple[Item, ...]
    histories: Histories

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """The data set of a site folder, checked against its manifest.

        Raises:
            NotFoundError: nothing was ingested there.
            InvalidInputError: a file is missing, damaged or of another schema version.
        """
        manifest = read_manifest(folder)
        items = _load_items(_checked(folder, manifest.items))
        if len(items) != manifest.item_count:
            raise InvalidInputError(f"{folder} does not hold the items it names; ingest again")
        events = _read_table(_checked(folder, manifest.events))
        return cls(manifest=manifest, items=items, histories=_histories(events, len(items)))

    def shoppers(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Each shopper's pseudonym and the items that it bought, oldest first; perhaps none."""
        for place, pseudonym in enumerate(self.histories.pseudonyms):
            yield pseudonym, tuple(self.histories.of(place).tolist())


def ingest(
    catalogue: Path,
    events: Path,
    site_folder: Path,
    mapping: Mapping[str, str],
    now: datetime,
    key: PseudonymKey,
) -> QualityReport:
    """Replaces the site's data set by what two exports hold; the folder need not exist.

    Args:
        catalogue: the export of the items; ``Export`` says which formats it may have.
        events: the export of what shoppers did, likewise.
        site_folder: where the data set lies afterwards.
        mapping: our field to their column, see ``hansa.client.ingest.columns.parse_mapping``.
        now: aware; later events are dropped.
        key: the site's own, see ``hansa.client.ingest.pseudonyms``.

    Raises:
        NotFoundError: a file does not exist.
        InvalidInputError: a file cannot be used, or the folder cannot be written.
        ConflictError: another ingest runs in this folder.
    """
    with _translated(site_folder), _locked(site_folder):
        ingestion = Ingestion(catalogue, events, mapping=mapping, now=now)
        columns = EventColumns(ingestion.items, key)
        for event in ingestion.events():
            columns.add(event)
        _commit(site_folder, ingestion.items, columns)
    return QualityReport(
        catalogue=ingestion.catalogue_report,
        events=ingestion.event_report,
        shoppers=columns.shoppers,
    )


def read_manifest(folder: Path) -> DatasetManifest:
    """What the site's ``dataset.json`` says.

    Raises:
        NotFoundError: nothing was ingested there.
        InvalidInputError: it is damaged or of another schema version.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"{folder} holds no data set; run 'hansa-client ingest'") from error
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}; check the path") from error
    try:
        return DatasetManifest.model_validate(parse_json(data, str(path)))
    except ValidationError as error:
        raise InvalidInputError(
            f"{path} is not a data set of schema version {SCHEMA_VERSION}; ingest again"
        ) from error


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInputError(
            f"cannot write to {folder}: {error.strerror}; mend the folder or free space"
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """At most one ingest in a folder; the lock falls with the process."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConflictError(f"another ingest runs in {folder}; wait for its end") from error
    finally:
        os.close(handle)


def _commit(folder: Path, items: tuple[Item, ...], columns: EventColumns) -> None:
    rows = [item.model_dump() for item in items]
    events = columns.table()
    manifest = DatasetManifest(
        items=_write(folder, "items", pa.Table.from_pylist(rows, schema=_ITEM_SCHEMA)),
        events=_write(folder, "events", events),
        item_count=len(items),
        event_count=events.num_rows,
        shopper_count=columns.shoppers,
    )
    previous = _named_files(folder)
    data = canonical_json(manifest.model_dump(mode="json"))
    write_atomically(folder / MANIFEST, data, mode=_OWNER_ONLY)
    _sweep(folder, previous | _named_files(folder))


def _write(folder: Path, stem: str, table: pa.Table) -> DataFile:
    part = folder / f".{stem}.{os.getpid()}.part"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY)
    with os.fdopen(handle, "wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    sha = file_sha256(part)
    entry = DataFile(name=f"{stem}-{sha[:16]}.parquet", sha256=sha)
    part.replace(folder / entry.name)
    fsync_directory(folder)
    return entry


def _named_files(folder: Path) -> set[str]:
    """The files of the manifest that lies there now; none where it cannot be read."""
    try:
        manifest = read_manifest(folder)
    except (NotFoundError, InvalidInputError):
        return set()
    return {manifest.items.name, manifest.events.name}


def _sweep(folder: Path, keep: set[str]) -> None:
    """Removes older files; those of the last data set stay for whoever is reading them now."""
    for pattern in _DATA_FILES:
        for path in folder.glob(pattern):
            if path.name not in keep:
                path.unlink(missing_ok=True)


def _checked(folder: Path, entry: DataFile) -> Path:
    path = folder / entry.name
    if not path.is_file() or file_sha256(path) != entry.sha256:
        raise InvalidInputError(f"{path} is missing or was changed after the ingest; ingest again")
    return path


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"{path} is not a data set's file; ingest again") from error


def _load_items(path: Path) -> tuple[Item, ...]:
    try:
        return tuple(Item.model_validate(row) for row in _read_table(path).to_pylist())
    except ValidationError as error:
        raise InvalidInputError(
            f"{path} holds an item that this version refuses; ingest again"
        ) from error


def _histories(events: pa.Table, item_count: int) -> Histories:
    if not events.schema.equals(EVENT_SCHEMA):
        raise InvalidInputError("the events are of another schema version; ingest again")
    codes, names = _encoded(events["shopper"])
    bought = np.asarray(
        pc.equal(events["kind"].cast(pa.string()), pa.scalar("purchase")), dtype=np.bool_
    )
    indices = events["item"].to_numpy()[bought].astype(np.int32)
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < item_count:
        raise InvalidInputError("an event names an item that is not there; ingest again")
    counts = np.bincount(codes[bought], minlength=len(names))
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    return Histories(pseudonyms=names, indptr=indptr, indices=indices)


def _encoded(
    column: "pa.ChunkedArray[Any]",
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Each row's place among the distinct words, and the words; the column is grouped by word."""
    words = column.cast(pa.string())
    names = pc.unique(words).to_pylist()
    places = pc.index_in(words, value_set=pa.array(names, pa.string()))
    return places.to_numpy().astype(np.int64), tuple(str(name) for name in names)
