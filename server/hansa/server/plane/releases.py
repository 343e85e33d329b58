"""The Releases service: signed metadata by name, targets by digest and offset, health in return.

The service needs no signing key and vouches for nothing; a merchant believes the signatures alone.
Files are read in threads, so that one slow disk never holds up the other merchants' calls.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

import grpc
import grpc.aio

from hansa.core.errors import InvalidInputError
from hansa.core.ids import MerchantId, ReleaseVersion
from hansa.core.release import check_channel
from hansa.core.storage import check_sha256
from hansa.protos.v1 import common_pb2, releases_pb2, releases_pb2_grpc
from hansa.server.plane.status import streaming, unary
from hansa.server.releases.files import RepositoryFiles

Context = grpc.aio.ServicerContext[Any, Any]
Authorise = Callable[[Context], MerchantId]
"""Names the calling merchant, or raises UnauthorisedError."""

MAX_SENTENCE = 500
"""Characters of a health report's sentence."""

_TARGET_PATH = re.compile(
    r"[a-z][a-z0-9-]{0,31}(/[1-9][0-9]{0,9})?/[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
)


class HealthSink(Protocol):
    """Where merchants' health reports go; it may block, and is called in a thread."""

    def record_health(
        self,
        *,
        merchant: MerchantId,
        channel: str,
        version: ReleaseVersion,
        serving: bool,
        sentence: str,
    ) -> None:
        """Notes that the merchant serves the release, or the reason why it does not."""


class ReleasesService(releases_pb2_grpc.ReleasesServicer):
    """Serves one repository folder to authorised merchants."""

    def __init__(self, files: RepositoryFiles, health: HealthSink, authorise: Authorise) -> None:
        self._files = files
        self._health = health
        self._authorise = authorise

    @unary
    async def GetMetadata(
        self, request: releases_pb2.MetadataRequest, context: Context
    ) -> releases_pb2.MetadataFile:
        """One metadata file; NOT_FOUND also tells a client that its root is the newest."""
        self._authorise(context)
        data = await asyncio.to_thread(self._files.metadata, request.name)
        return releases_pb2.MetadataFile(data=data)

    @streaming
    async def GetTarget(
        self, request: releases_pb2.TargetRequest, context: Context
    ) -> AsyncIterator[common_pb2.Chunk]:
        """The target's bytes from the offset on, in pieces of at most 1 MiB.

        The certificate is checked again before every piece: an open stream outlives a revocation.
        """
        self._authorise(context)
        chunks = self._chunks(request)
        while data := await asyncio.to_thread(next, chunks, b""):
            self._authorise(context)
            yield common_pb2.Chunk(data=data)

    @unary
    async def ReportHealth(
        self, request: releases_pb2.HealthReport, context: Context
    ) -> releases_pb2.HealthReceipt:
        """Hands the merchant's report to the sink."""
        merchant = self._authorise(context)
        _check_report(request)
        await asyncio.to_thread(self._record, merchant, request)
        return releases_pb2.HealthReceipt()

    def _chunks(self, request: releases_pb2.TargetRequest) -> Iterator[bytes]:
        if not _TARGET_PATH.fullmatch(request.path):
            raise InvalidInputError("a target is named like 'stable/7/model.onnx'")
        return self._files.targets.chunks(check_sha256(request.sha256), request.offset_bytes)

    def _record(self, merchant: MerchantId, report: releases_pb2.HealthReport) -> None:
        self._health.record_health(
            merchant=merchant,
            channel=report.channel,
            version=ReleaseVersion(report.version),
            serving=report.serving,
            sentence=report.sentence,
        )


def _check_report(report: releases_pb2.HealthReport) -> None:
    check_channel(report.channel)
    if report.serving and report.version == 0:
        raise InvalidInputError("a served release has a version from 1 upward")
    if len(report.sentence) > MAX_SENTENCE or not report.sentence.isprintable():
        raise InvalidInputError(f"the sentence is one line of at most {MAX_SENTENCE} characters")
