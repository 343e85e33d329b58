"""Which blobs merchants have delivered whole, and for which task."""

from sqlalchemy import Engine, select

from hansa.core.ids import MerchantId, Sha256
from hansa.server.state.batches import Batches
from hansa.server.state.database import insert_into, retried, writing
from hansa.server.state.tables import UploadRow

_KEY = ("merchant", "task_id", "sha256")


class Deliveries:
    """A mark for each delivered blob: in the database, so that all servers know of it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._marks: Batches[tuple[str, str, str]] = Batches(self._write)

    def note(self, merchant: MerchantId, task_id: str, sha256: Sha256) -> None:
        """Marks a blob as delivered; it must be in the blob store before."""
        self._marks.add((merchant, task_id, sha256))

    @retried
    def _write(self, marks: list[tuple[str, str, str]]) -> None:
        insert = insert_into(self._engine, UploadRow).on_conflict_do_nothing()
        rows = [dict(zip(_KEY, mark, strict=True)) for mark in sorted(marks)]
        with writing(self._engine) as session:
            session.connection().execute(insert, rows)

    def is_noted(self, merchant: MerchantId, task_id: str, sha256: Sha256) -> bool:
        """Whether this merchant has delivered the blob for this task."""
        row = UploadRow
        query = select(row.sha256).where(
            row.merchant == merchant, row.task_id == task_id, row.sha256 == sha256
        )
        with self._engine.connect() as connection:
            return connection.scalar(query) is not None

    def has_any(self, merchant: MerchantId, task_id: str) -> bool:
        """Whether this merchant has delivered any blob for this task."""
        row = UploadRow
        query = select(row.sha256).where(row.merchant == merchant, row.task_id == task_id).limit(1)
        with self._engine.connect() as connection:
            return connection.scalar(query) is not None
