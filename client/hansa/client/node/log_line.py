"""The calls of the transparency log, as the witness makes them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import grpc

from hansa.client.channel import CALL_TIMEOUT_S
from hansa.client.witness import Growth, Place
from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.protos.v1 import log_pb2 as pb
from hansa.protos.v1 import log_pb2_grpc as rpc

_NO_PROOF = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)


class GrpcLogLine:
    """Asks over an open channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = rpc.TransparencyLogStub(channel)

    def newest(self) -> bytes:
        """The newest signed checkpoint; empty from a server without a log."""
        with _named():
            try:
                request = pb.CheckpointRequest()
                return bytes(self._stub.Checkpoint(request, timeout=CALL_TIMEOUT_S).note)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return b""
                raise

    def growth(self, first: int, second: int, leaf_hashes: Sequence[bytes]) -> Growth:
        """From one size of the log to a later one.

        Raises:
            InvalidInputError: the log never had these sizes.
            NotFoundError: the server has no such log.
        """
        request = pb.ConsistencyRequest(first=first, second=second, leaf_hashes=leaf_hashes)
        with _named():
            reply = self._stub.Consistency(request, timeout=CALL_TIMEOUT_S)
        return Growth(proof=list(reply.proof), places=_places(reply.inclusions))

    def places(self, size: int, leaf_hashes: Sequence[bytes]) -> Sequence[Place | None]:
        """Of entries in the log of one size.

        Raises:
            InvalidInputError: the log never had this size.
            NotFoundError: the server has no such log.
        """
        request = pb.InclusionRequest(size=size, leaf_hashes=leaf_hashes)
        with _named():
            reply = self._stub.Inclusion(request, timeout=CALL_TIMEOUT_S)
        return _places(reply.inclusions)


def _places(proofs: Iterable[pb.InclusionProof]) -> list[Place | None]:
    return [Place(index=one.index, path=list(one.path)) if one.found else None for one in proofs]


@contextmanager
def _named() -> Iterator[None]:
    """What the server cannot prove as an error of its own; the line's faults stay as they are."""
    try:
        yield
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            raise InvalidInputError(error.details() or "") from error
        if error.code() in _NO_PROOF:
            raise NotFoundError(error.details() or "") from error
        raise
