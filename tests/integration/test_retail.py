"""The Retail port as a shop's program meets it: over TCP, behind mutual TLS."""

import datetime as dt
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hansa.client.retrieval.index import CatalogueIndex, Hit
from hansa.client.serving.retail import ActiveRelease
from hansa.client.serving.server import RetailServer, ServingSettings, TlsFiles
from hansa.core.errors import InvalidInputError
from hansa.core.identity import Credentials, Identity, Role, issue, make_authority, make_key
from hansa.core.ids import ReleaseVersion
from hansa.protos.v1 import retail_pb2, retail_pb2_grpc
from tests.fakes.retrieval_model import FakeRetrievalModel, Product

DAY = dt.timedelta(days=1)
SHOP = [
    Product("s1", "Red running shoes", 50.0),
    Product("s2", "Blue running shoes", 55.0),
    Product("h1", "Red hat", None),
    Product("l1", "Table lamp", 20.0),
]


def credentials(authority: Credentials, *hosts: str) -> Credentials:
    key, name = make_key(), Identity(role=Role.APPLICATION, name="shop")
    now = dt.datetime.now(dt.UTC)
    certificate = issue(authority, key.public_key(), name, now=now, valid_for=DAY, hosts=hosts)
    return Credentials(key=key, certificate=certificate)


@pytest.fixture(scope="module")
def authority() -> Credentials:
    return make_authority("the merchant", now=dt.datetime.now(dt.UTC), valid_for=DAY)


@pytest.fixture(scope="module")
def tls(authority: Credentials) -> TlsFiles:
    port = credentials(authority, "localhost")
    return TlsFiles(
        key=port.key_pem,
        chain=port.certificate_pem,
        client_authority=authority.certificate_pem,
    )


@dataclass(frozen=True)
class Caller:
    """A program of the shop."""

    channel: grpc.Channel

    def search(self, query: str, limit: int = 0, timeout_s: float = 10.0) -> retail_pb2.Answers:
        request = retail_pb2.SearchRequest(query=query, limit=limit)
        return retail_pb2_grpc.RetailStub(self.channel).Search(request, timeout=timeout_s)

    def recommend(
        self, *item_ids: str, limit: int = 0, only_new: bool = False
    ) -> retail_pb2.Answers:
        request = retail_pb2.RecommendRequest(item_ids=item_ids, limit=limit, only_new=only_new)
        return retail_pb2_grpc.RetailStub(self.channel).Recommend(request, timeout=10.0)

    def health(self, service: str = "hansa.v1.Retail") -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=10.0).status)


def connect(port: int, authority: Credentials, own: Credentials | None) -> grpc.Channel:
    secure = grpc.ssl_channel_credentials(
        authority.certificate_pem,
        own.key_pem if own else None,
        own.certificate_pem if own else None,
    )
    return grpc.secure_channel(f"localhost:{port}", secure)


def release(version: int, items: Sequence[Product] = SHOP) -> ActiveRelease:
    model = FakeRetrievalModel()
    embeddings = model.embed([item.text for item in items])
    index = CatalogueIndex(
        items, model, embeddings, rng=np.random.default_rng(0), new_item_ids=["l1"]
    )
    return ActiveRelease(index=index, version=ReleaseVersion(version))


@pytest.fixture(scope="module")
def server(tls: TlsFiles) -> Iterator[RetailServer]:
    running = RetailServer(ServingSettings(), tls, clock=time.monotonic)
    running.start()
    running.activate(release(7))
    yield running
    running.stop(1.0)


@pytest.fixture(scope="module")
def caller(server: RetailServer, authority: Credentials) -> Iterator[Caller]:
    with connect(server.port, authority, credentials(authority)) as channel:
        yield Caller(channel)


def test_search_answers_with_the_items_and_the_release(caller: Caller) -> None:
    answers = caller.search("red running shoes", 2)
    assert [item.item_id for item in answers.items] == ["s1", "s2"]
    assert (answers.items[0].title, answers.items[0].price) == ("Red running shoes", 50.0)
    assert answers.items[0].score > answers.items[1].score
    assert answers.release_version == 7


def test_recommend_leaves_out_the_history_and_ignores_unknown_ids(caller: Caller) -> None:
    answers = caller.recommend("s1", "ghost")
    assert answers.items[0].item_id == "s2"
    assert len(answers.items) == 3
    assert caller.recommend("s1", only_new=True).items[0].item_id == "l1"


def test_an_item_without_price_is_sent_with_price_zero(caller: Caller) -> None:
    assert caller.search("red hat", 1).items[0].price == 0.0


def test_limit_zero_means_ten_and_a_hundred_is_the_most(
    tls: TlsFiles, authority: Credentials
) -> None:
    server = RetailServer(ServingSettings(), tls, clock=time.monotonic)
    server.activate(release(1, [Product(f"p{i}", f"lamp {i}") for i in range(150)]))
    server.start()
    with connect(server.port, authority, credentials(authority)) as channel:
        caller = Caller(channel)
        assert len(caller.search("lamp").items) == 10
        assert len(caller.search("lamp", 100).items) == 100
        assert len(caller.recommend("p1").items) == 10
    server.stop(0)


@pytest.mark.parametrize("limit", [101, 2**31, 2**32 - 1])
def test_a_limit_above_a_hundred_is_refused(caller: Caller, limit: int) -> None:
    for call in (lambda: caller.search("hat", limit), lambda: caller.recommend("s1", limit=limit)):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "a limit is 1 to 100, or 0 for 10"


@pytest.mark.parametrize("query", ["", "   \n", "x" * 501, "鞋" * 501])
def test_an_empty_or_oversized_query_is_refused_and_not_repeated(
    caller: Caller, query: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        caller.search(query)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "xx" not in caught.value.details()


@pytest.mark.parametrize("query", ["x" * 500, "鞋" * 500, "\0\x1b[31m", "' OR 1=1 --", "🥾" * 500])
def test_a_strange_query_of_allowed_length_is_answered(caller: Caller, query: str) -> None:
    assert len(caller.search(query, 2).items) == 2


def test_a_message_above_64_kib_is_refused(caller: Caller) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        caller.search("x" * 70_000)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(caller.search("hat").items) == 4


@pytest.mark.parametrize("item_ids", [[], [""], ["s1", ""], ["x" * 129], ["s1"] * 1001])
def test_a_history_outside_its_bounds_is_refused(caller: Caller, item_ids: list[str]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        caller.recommend(*item_ids)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_history_of_a_thousand_ids_is_answered(caller: Caller) -> None:
    assert len(caller.recommend(*["s1"] * 1000).items) == 3


def test_unknown_ids_alone_are_not_found_and_not_repeated(caller: Caller) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        caller.recommend("ghost", "phantom")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "ghost" not in caught.value.details()


def test_a_plaintext_client_is_refused(server: RetailServer) -> None:
    with (
        grpc.insecure_channel(f"localhost:{server.port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        Caller(channel).search("hat")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_client_without_certificate_is_refused(
    server: RetailServer, authority: Credentials
) -> None:
    with connect(server.port, authority, None) as channel, pytest.raises(grpc.RpcError) as caught:
        Caller(channel).search("hat")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_client_with_a_foreign_certificate_is_refused(
    server: RetailServer, authority: Credentials
) -> None:
    foreign = make_authority("the merchant", now=dt.datetime.now(dt.UTC), valid_for=DAY)
    with (
        connect(server.port, authority, credentials(foreign)) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        Caller(channel).search("hat")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_an_expired_client_certificate_is_refused(
    server: RetailServer, authority: Credentials
) -> None:
    key, name = make_key(), Identity(role=Role.APPLICATION, name="shop")
    past = dt.datetime.now(dt.UTC) - 10 * DAY
    old = issue(authority, key.public_key(), name, now=past, valid_for=DAY)
    with (
        connect(server.port, authority, Credentials(key=key, certificate=old)) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        Caller(channel).search("hat")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_without_a_release_the_port_is_unhealthy_and_unavailable(
    tls: TlsFiles, authority: Credentials
) -> None:
    server = RetailServer(ServingSettings(), tls, clock=time.monotonic)
    server.start()
    with connect(server.port, authority, credentials(authority)) as channel:
        caller = Caller(channel)
        assert caller.health() == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            caller.search("hat")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        server.activate(release(1))
        assert caller.health() == caller.health("") == health_pb2.HealthCheckResponse.SERVING
        assert caller.search("hat").release_version == 1
    server.stop(0)


def test_reload_under_load_gives_no_error_and_no_mixed_answer(
    server: RetailServer, caller: Caller
) -> None:
    shops = {version: [Product(f"v{version}", "hat")] for version in (1, 2)}
    releases = [release(version, items) for version, items in shops.items()]
    server.activate(releases[0])
    stop, mixed, answered = threading.Event(), [], []

    def load() -> None:
        while not stop.is_set():
            answers = caller.search("hat")
            answered.append(answers.release_version)
            if answers.items[0].item_id != f"v{answers.release_version}":
                mixed.append(answers)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(200):
        server.activate(releases[i % 2])
        time.sleep(0.005)
    stop.set()
    for thread in threads:
        thread.join(10)
    server.activate(release(7))
    assert mixed == []
    assert len(answered) > 100
    assert set(answered) == {1, 2}


class Slow:
    """An index that answers when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def search(self, query: str, limit: int) -> list[Hit]:
        self.go.wait(10)
        return []

    def recommend(self, history: Sequence[str], limit: int, *, only_new: bool = False) -> list[Hit]:
        raise ValueError(f"secret history {history}")


def test_more_requests_than_the_port_bears_are_refused_at_once(
    tls: TlsFiles, authority: Credentials
) -> None:
    settings = ServingSettings(workers=1, max_concurrent=2)
    server, slow = RetailServer(settings, tls, clock=time.monotonic), Slow()
    server.activate(ActiveRelease(index=slow, version=ReleaseVersion(1)))
    server.start()
    own = credentials(authority)
    channels = [connect(server.port, authority, own) for _ in range(6)]
    stubs = [retail_pb2_grpc.RetailStub(channel) for channel in channels]
    request = retail_pb2.SearchRequest(query="hat")
    calls = [stub.Search.future(request, timeout=10.0) for stub in stubs]
    time.sleep(0.5)
    slow.go.set()
    codes = sorted(call.code().name for call in calls)
    for channel in channels:
        channel.close()
    server.stop(0)
    assert codes == ["OK"] * 2 + ["RESOURCE_EXHAUSTED"] * 4


def test_a_callers_deadline_is_kept(tls: TlsFiles, authority: Credentials) -> None:
    server, slow = RetailServer(ServingSettings(), tls, clock=time.monotonic), Slow()
    server.activate(ActiveRelease(index=slow, version=ReleaseVersion(1)))
    server.start()
    with (
        connect(server.port, authority, credentials(authority)) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        Caller(channel).search("hat", timeout_s=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    slow.go.set()
    server.stop(1.0)


def test_an_unforeseen_error_tells_neither_caller_nor_log_what_was_asked(
    tls: TlsFiles, authority: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    server = RetailServer(ServingSettings(), tls, clock=time.monotonic)
    server.activate(ActiveRelease(index=Slow(), version=ReleaseVersion(1)))
    server.start()
    with (
        connect(server.port, authority, credentials(authority)) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        Caller(channel).recommend("s1")
    server.stop(0)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in caught.value.details()
    assert "Recommend failed with ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_latency_is_counted_for_answers_only(tls: TlsFiles, authority: Credentials) -> None:
    ticks = iter([0.0, 0.004] * 5 + [0.0] * 9)
    server = RetailServer(ServingSettings(workers=1), tls, clock=lambda: next(ticks))
    server.activate(release(1))
    server.start()
    with connect(server.port, authority, credentials(authority)) as channel:
        for _ in range(5):
            Caller(channel).search("hat")
        with pytest.raises(grpc.RpcError):
            Caller(channel).search("")
    server.stop(1.0)
    figures = server.latency()
    assert (figures["Search"].count, figures["Recommend"].count) == (5, 0)
    assert 0.004 <= figures["Search"].p50_s <= 0.0044


@pytest.mark.parametrize("wanted", [False, True])
def test_reflection_is_off_unless_asked_for(
    tls: TlsFiles, authority: Credentials, wanted: bool
) -> None:
    server = RetailServer(ServingSettings(reflection=wanted), tls, clock=time.monotonic)
    server.start()
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with connect(server.port, authority, credentials(authority)) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        replies = stub.ServerReflectionInfo(iter([request]), timeout=10.0)
        if wanted:
            names = [one.name for one in next(replies).list_services_response.service]
            assert "hansa.v1.Retail" in names
        else:
            with pytest.raises(grpc.RpcError) as caught:
                next(replies)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    server.stop(0)


def test_a_port_in_use_is_refused_with_a_sentence(server: RetailServer, tls: TlsFiles) -> None:
    with pytest.raises(InvalidInputError, match="cannot be served"):
        RetailServer(ServingSettings(port=server.port), tls, clock=time.monotonic)


def test_pem_bytes_that_are_none_are_refused(tls: TlsFiles) -> None:
    broken = TlsFiles(key=b"x", chain=tls.chain, client_authority=tls.client_authority)
    with pytest.raises(InvalidInputError, match="certificate"):
        RetailServer(ServingSettings(), broken, clock=time.monotonic)


def test_the_private_key_is_not_in_the_representation(tls: TlsFiles) -> None:
    assert "PRIVATE" not in repr(tls)
