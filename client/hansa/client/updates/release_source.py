"""Where a merchant's site gets signed bytes from: the Releases service over gRPC, or a test's fake.

Nothing that a source returns is believed; the updater verifies it. Every call has a deadline.
"""

from collections.abc import Iterator
from typing import Protocol

import grpc
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from hansa.client.channel import CALL_TIMEOUT_S, TRANSFER_TIMEOUT_S, translated
from hansa.core.errors import InvalidInputError, NotFoundError, TransportError
from hansa.core.ids import ReleaseVersion, Sha256
from hansa.protos.v1 import releases_pb2, releases_pb2_grpc

METADATA_URL = "hansa-metadata:/"
"""The base under which TUF asks our fetcher for metadata; it never reaches the wire."""


class ReleaseSource(Protocol):
    """Where signed bytes come from; nothing that it returns is believed."""

    def metadata(self, name: str) -> bytes:
        """A metadata file.

        Raises:
            NotFoundError: there is none of this name.
            TransportError: the line broke.
        """

    def target(self, path: str, sha256: Sha256, offset_bytes: int) -> Iterator[bytes]:
        """A target's bytes from the offset on, in pieces.

        Raises:
            NotFoundError: there is no such target.
            TransportError: the line broke; the pieces so far remain usable.
        """


class GrpcReleaseSource:
    """The Releases service of the operator's server, over an open channel."""

    def __init__(
        self,
        channel: grpc.Channel,
        address: str,
        *,
        call_timeout_s: float = CALL_TIMEOUT_S,
        stream_timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        """Borrows the channel; ``address`` is what the errors' sentences name."""
        self._stub = releases_pb2_grpc.ReleasesStub(channel)
        self._address = address
        self._call_timeout_s = call_timeout_s
        self._stream_timeout_s = stream_timeout_s

    def metadata(self, name: str) -> bytes:
        """A metadata file.

        Raises:
            NotFoundError: the server has none of this name.
            UnauthorisedError: the server refuses this merchant.
            TransportError: the server cannot be reached, or broke the rules.
        """
        request = releases_pb2.MetadataRequest(name=name)
        with translated(self._address):
            reply = self._stub.GetMetadata(request, timeout=self._call_timeout_s)
        return bytes(reply.data)

    def target(self, path: str, sha256: Sha256, offset_bytes: int) -> Iterator[bytes]:
        """A target's bytes from the offset on; leaving the iteration early ends the stream.

        Raises:
            NotFoundError: the server has no such target.
            UnauthorisedError: the server refuses this merchant.
            TransportError: the line broke; the pieces so far remain usable.
        """
        request = releases_pb2.TargetRequest(path=path, sha256=sha256, offset_bytes=offset_bytes)
        stream = self._stub.GetTarget(request, timeout=self._stream_timeout_s)
        try:
            with translated(self._address):
                for chunk in stream:
                    yield bytes(chunk.data)
        except InvalidInputError as error:
            raise TransportError(f"the release server refuses {path!r}: {error}") from error
        finally:
            stream.cancel()

    def report_health(
        self, *, channel: str, version: ReleaseVersion, serving: bool, sentence: str
    ) -> None:
        """Tells the operator that a release is being served, or why not.

        Args:
            channel: The site's release channel.
            version: The release meant; 0 while there is none.
            serving: Verified, indexed and answering.
            sentence: One line of at most 500 characters; nothing private.

        Raises:
            UnauthorisedError: the server refuses this merchant.
            InvalidInputError: the report is out of bounds.
            TransportError: the server cannot be reached.
        """
        report = releases_pb2.HealthReport(
            channel=channel, version=version, serving=serving, sentence=sentence
        )
        with translated(self._address):
            self._stub.ReportHealth(report, timeout=self._call_timeout_s)


class MetadataFetcher(FetcherInterface):
    """TUF's way to our source; the base class enforces the promised lengths."""

    def __init__(self, source: ReleaseSource) -> None:
        self._source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(METADATA_URL)
        try:
            return iter([self._source.metadata(name)])
        except NotFoundError as error:
            raise DownloadHTTPError(f"the server has no {name!r}", 404) from error
