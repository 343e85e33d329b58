"""The plan's codec at the server's end: between Flower's records and the blobs on the plane.

A reply is decoded against the very content that its task carried, so a stale update is read against
the model that its merchant had, and a restarted server reads it as before.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Final

from flwr.app import RecordDict

from hansa.compression.content_codec import ARRAYS, ContentCodec
from hansa.core.content import Content
from hansa.core.errors import InvalidInputError, UpdateRejectedError
from hansa.core.ids import Sha256
from hansa.core.plan import FederationSpec
from hansa.core.secure.protocol import TRAIN
from hansa.core.storage import BlobStore
from hansa.core.tensors import header_length_at
from hansa.core.update import Arrays
from hansa.server.rounds.flower import read_records, to_records
from hansa.server.state.tables import TaskRow

_KEPT_BASES: Final = 2
"""Models in memory: this round's, and the one before for who is late."""

_NO_LIMIT: Final = 1 << 62
"""The server reads its own models."""

_LIGHT_HEADER_BYTES: Final = 1 << 20
"""Of a reply that holds no model: an evaluation's metrics, a stage of a secret sum."""

_VALUES_BYTES: Final = 64 << 10
"""Room for the metrics and settings of an update."""

_PER_ARRAY: Final = 2
"""An update names the model's arrays; coded they have other types, shapes and places, which take at
most as many bytes as an array's whole entry."""


class PlaneCodec:
    """How one run's messages lie in blobs."""

    def __init__(self, federation: FederationSpec, blobs: BlobStore) -> None:
        self._federation = federation
        self._blobs = blobs
        self._bases: OrderedDict[str, Arrays] = OrderedDict()

    def codes_down(self, phase: str) -> bool:
        """Whether the phase's tasks carry the model otherwise than it is."""
        return ContentCodec.of(self._federation, phase).codes_down

    def pack(self, phase: str, content: Content) -> Content:
        """A task's content as it travels: the same bytes after any restart."""
        return ContentCodec.of(self._federation, phase).encode_down(content)

    def read(self, row: TaskRow, path: Path, sha256: Sha256) -> RecordDict:
        """The records of a task's reply; its arrays are read and decoded when they are used.

        Raises:
            UpdateRejectedError: the reply is no content file, says more beside its arrays' values
                than any honest one, or its arrays are not the model's. To use an array that is not
                coded as the plan says raises this too.
        """
        codec = ContentCodec.of(self._federation, row.phase)
        if not codec.codes_up:
            return read_records(path, sha256, max_header_bytes=self._header_limit(row))
        try:
            reply = Content.open(path, sha256, max_header_bytes=self._header_limit(row))
            base = self._base(codec, Sha256(row.content_sha256))
            return to_records(codec.decode_up(reply, base))
        except (InvalidInputError, TypeError, ValueError) as error:
            raise UpdateRejectedError(f"the reply cannot be read: {error}") from error

    def _header_limit(self, row: TaskRow) -> int:
        """How long the header of an honest reply to the task can be."""
        if row.phase != TRAIN:
            return _LIGHT_HEADER_BYTES
        model = self._blobs.checked(Sha256(row.content_sha256))
        return _PER_ARRAY * header_length_at(model) + _VALUES_BYTES

    def _base(self, codec: ContentCodec, sha: Sha256) -> Arrays:
        """The model as the task carried it."""
        if sha not in self._bases:
            task = Content.open(self._blobs.checked(sha), sha)
            opened = codec.decode_down(task, max_bytes=_NO_LIMIT)
            self._bases[sha] = opened.arrays.get(ARRAYS, {})
            while len(self._bases) > _KEPT_BASES:
                self._bases.popitem(last=False)
        self._bases.move_to_end(sha)
        return self._bases[sha]
