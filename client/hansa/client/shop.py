"""The shop's side of the on-site service, as the command uses it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc

from hansa.client.site import Site
from hansa.core.credentials import read_credentials
from hansa.core.errors import HansaError, InvalidInputError, NotFoundError, TransportError
from hansa.protos.v1 import retail_pb2 as pb
from hansa.protos.v1 import retail_pb2_grpc as rpc

_TIMEOUT_S = 5.0
_ERRORS: dict[grpc.StatusCode, type[HansaError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
}


class Shop:
    """Search and recommendation over mTLS on this site."""

    def __init__(self, stub: rpc.RetailStub) -> None:
        self._stub = stub

    def search(self, query: str, limit: int) -> pb.Answers:
        """Items for a text query."""
        request = pb.SearchRequest(query=query, limit=limit)
        reply: pb.Answers = self._stub.Search(request, timeout=_TIMEOUT_S)
        return reply

    def recommend(
        self, item_ids: Sequence[str], limit: int, *, only_new: bool = False
    ) -> pb.Answers:
        """Items for a history."""
        request = pb.RecommendRequest(item_ids=item_ids, limit=limit, only_new=only_new)
        reply: pb.Answers = self._stub.Recommend(request, timeout=_TIMEOUT_S)
        return reply


@contextmanager
def connect(site: Site) -> Iterator[Shop]:
    """The running site's service, called with the shop application's certificate.

    Raises:
        TransportError: the site does not run, or serves nothing yet.
        InvalidInputError: the service refused the question.
    """
    settings = site.settings()
    own = read_credentials(site.applications, "shop")
    root = (site.applications / "authority.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(root, own.key_pem, own.certificate_pem)
    address = f"127.0.0.1:{settings.serving_port}"
    options = (("grpc.enable_http_proxy", 0),)
    with grpc.secure_channel(address, credentials, options=options) as channel:
        try:
            yield Shop(rpc.RetailStub(channel))
        except grpc.RpcError as error:
            raise _translated(error, address) from error


def _translated(error: grpc.RpcError, address: str) -> HansaError:
    code, text = error.code(), error.details() or ""
    if code in _ERRORS:
        return _ERRORS[code](text)
    if code is grpc.StatusCode.UNAVAILABLE:
        return TransportError(
            f"nothing serves at {address} yet; "
            f"run 'hansa-client start' and wait for a release ({text[:200]})"
        )
    return TransportError(f"the site's service answered {code.name}: {text[:200]}")
