"""Tasks as they are handed out, to this version's clients and to those of the version before."""

import time

import numpy as np
import pytest

from hansa.core.content import Content
from hansa.core.ids import MerchantId, RunId, TaskId
from hansa.core.storage import BlobStore
from hansa.protos.v1 import federation_pb2 as pb
from hansa.server.plane.handout import Handout
from hansa.server.state.database import open_database
from hansa.server.state.members import Members
from hansa.server.state.runs import Runs
from hansa.server.state.tasks import NewTask, Result, Tasks
from tests.fakes.toy_federation import toy_plan

HARBOUR = MerchantId("harbour")
MODEL = {"weights": np.arange(3, dtype=np.float32)}
SETTINGS = Content(configs={"config": {"server-round": 1}})
NAME = TaskId("run/1/train/harbour")


@pytest.fixture
def engine(tmp_path):
    engine = open_database(tmp_path / "hansa.db")
    Runs(engine, time.time).queue(RunId("run"), toy_plan(), b"signed")
    yield engine
    engine.dispose()


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def tasks(engine, blobs):
    """One task whose content is a stored model, with its settings apart."""
    tasks = Tasks(engine, lambda: 500.0)
    sha = blobs.write(Content(arrays={"arrays": MODEL}).pieces())
    tasks.post([NewTask(
        task_id=NAME, run_id=RunId("run"), round_number=1, phase="train", merchant=HARBOUR,
        content_sha256=sha, content_bytes=blobs.size(sha), settings=SETTINGS.to_bytes(),
        deadline=9e9,
    )])  # fmt: skip
    return tasks


@pytest.fixture
def handout(engine, tasks, blobs):
    return Handout(tasks, Runs(engine, time.time), blobs, Members(engine, time.time))


def row(tasks: Tasks):
    found = tasks.find(NAME, HARBOUR)
    assert found is not None
    return found


def request(session: int = 1, minor: int = 1) -> pb.SubscribeRequest:
    return pb.SubscribeRequest(session=session, protocol_minor=minor)


def test_a_client_of_this_version_gets_the_stored_model_and_the_settings_apart(
    handout, tasks
) -> None:
    (event,) = handout.news(HARBOUR, request(), set())
    assert event.task.content.sha256 == row(tasks).content_sha256
    assert Content.from_bytes(event.task.settings) == SETTINGS


def test_a_client_of_version_1_0_gets_one_content_with_all_records(handout, tasks, blobs) -> None:
    (event,) = handout.news(HARBOUR, request(minor=0), set())
    assert event.task.settings == b""
    sha = event.task.content.sha256
    content = Content.from_bytes(blobs.read(sha))
    assert content.configs == SETTINGS.configs
    np.testing.assert_array_equal(content.arrays["arrays"]["weights"], MODEL["weights"])
    assert event.task.content.size_bytes == blobs.size(sha)
    assert handout.may_fetch(row(tasks), sha)


def test_a_content_that_was_tidied_away_is_made_again_for_an_old_client(handout, blobs) -> None:
    (event,) = handout.news(HARBOUR, request(minor=0), set())
    blobs.drop(event.task.content.sha256)
    (again,) = handout.news(HARBOUR, request(minor=0), set())
    assert again.task.content == event.task.content
    assert blobs.has(again.task.content.sha256)


def test_only_the_tasks_own_blobs_may_be_fetched(handout, tasks, blobs) -> None:
    assert handout.may_fetch(row(tasks), row(tasks).content_sha256)
    assert not handout.may_fetch(row(tasks), blobs.put(b"somebody's update"))


def test_each_handing_out_is_counted_with_the_session_that_got_it(handout, tasks) -> None:
    for session in (3, 4):
        handout.note(handout.news(HARBOUR, request(session), set()), session)
    assert (row(tasks).attempts, row(tasks).session) == (2, 4)


def test_a_subscription_gets_a_task_once_and_hears_of_its_end(handout, tasks) -> None:
    sent: set[str] = set()
    assert len(handout.news(HARBOUR, request(), sent)) == 1
    assert handout.news(HARBOUR, request(), sent) == []
    tasks.expire([NAME])
    (event,) = handout.news(HARBOUR, request(), sent)
    assert event.cancel.task_id == NAME


def test_a_task_that_was_handed_to_a_session_that_was_replaced_goes_to_the_newer_one(
    handout,
) -> None:
    older: set[str] = set()
    handout.news(HARBOUR, request(1), older)
    assert [event.task.task_id for event in handout.news(HARBOUR, request(2), set())] == [NAME]


def test_the_time_of_the_answer_is_noted_once(tasks) -> None:
    assert row(tasks).answered is None
    tasks.complete(NAME, HARBOUR, Result(reason="failed"))
    assert row(tasks).answered == 500.0
    tasks.complete(NAME, HARBOUR, Result(reason="budget"))
    assert (row(tasks).answered, row(tasks).reason) == (500.0, "failed")
