"""A real S3-compatible server for tests: moto's, on a free port, with a bucket that exists.

with running_object_store() as store:
    Remote(store.url("prefix"))

Its address and credentials reach s3fs as an operator's do: through the environment.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "hansa-blobs"


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """A running server."""

    endpoint: str

    def url(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}"

    def client(self):
        """The bucket as another program sees it."""
        return boto3.client("s3", region_name="eu-central-1")


@contextlib.contextmanager
def running_object_store() -> Iterator[ObjectStore]:
    """A server that lives as long as the block."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "operator",
        "AWS_SECRET_ACCESS_KEY": "correct-horse",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    try:
        with mock.patch.dict(os.environ, environment):
            store = ObjectStore(endpoint=environment["AWS_ENDPOINT_URL"])
            _make_bucket(store.client())
            yield store
    finally:
        server.stop()


def _make_bucket(client) -> None:
    """A bucket; boto3 repeats a request whose answer was late, and then it is there already."""
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
