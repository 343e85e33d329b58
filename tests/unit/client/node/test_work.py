"""One task on a site: what is refused, what is given up, and that nothing of it ends the client."""

import datetime as dt
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from hansa.client.allowed_apps import AllowedApps
from hansa.client.interruption import check_wanted, interruptible
from hansa.client.ledger_store import LedgerStore
from hansa.client.node.codec import TaskCodec
from hansa.client.node.delivery import Delivery
from hansa.client.node.guests import Guests
from hansa.client.node.outbox import Letter, Outbox
from hansa.client.node.work import Worker
from hansa.client.site import Site, SiteSettings
from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.envelope import Envelope, seal
from hansa.core.errors import InvalidInputError, TransportError
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.flower_plan import AnyPlan, FlowerPlan
from hansa.core.ids import MerchantId, RunId, TaskId, task_id
from hansa.core.plan import RunPlan
from hansa.core.privacy.entries import Commit, Reserve
from hansa.core.signing import sign, signing_key
from hansa.core.storage import INLINE_BYTES, BlobStore
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from tests.fakes import guest_apps
from tests.fakes.entropy import SeededEntropy
from tests.fakes.guest_apps import CLIENT, SERVER
from tests.fakes.toy_federation import CONTEXT, FIRST_MODEL, MODEL, ToyApplication, toy_plan

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
KEY = signing_key(bytes(32))
MILL = MerchantId("mill")
RUN = RunId("toy-0001")
REQUEST = Content(arrays={"arrays": FIRST_MODEL}, configs={"config": {"server-round": 1}})
GUEST_REQUEST = seal(REQUEST, Envelope(message_type="train"))


class Line:
    """Stands for the wire: hands blobs out, and remembers what it was told."""

    ledger_position = 0

    def __init__(self, *blobs: bytes) -> None:
        self._blobs = {sha256_hex(data): data for data in blobs}
        self.refusals: list[pb.Refusal] = []
        self.delivered: list[str] = []
        self.answer: pb.Acknowledgement | Exception = pb.ACKNOWLEDGEMENT_ACCEPTED

    def download(self, _task_id: str, blob: common.BlobRef, store: BlobStore) -> Path:
        return store.path(store.put(self._blobs[blob.sha256]))

    def upload(self, _outbox: Outbox, letter: Letter) -> None:
        self.delivered.append(letter.task_id)

    def complete(self, letter: Letter, _entries: bytes, content: bytes = b"") -> pb.Acknowledgement:
        if content:
            self.delivered.append(letter.task_id)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def refuse(self, _task_id: str, refusal: pb.Refusal, _entries: bytes) -> None:
        self.refusals.append(refusal)


class FullDisk(Outbox):
    """Room can be made, but nothing can be kept."""

    def put(self, task: TaskId, content: bytes) -> Letter:
        raise OSError(28, "No space left on device")


class Shop:
    """A site with its parts."""

    def __init__(self, folder: Path, store: LedgerStore) -> None:
        self.site = Site(folder)
        self.store = store
        self.toy = ToyApplication()
        AllowedApps(self.site.allowed_apps).allow(CLIENT, {}, NOW)

    def worker(self, outbox: Outbox | None = None, application: ToyApplication | None = None):
        box = outbox or self.outbox()
        public = KEY.public_key().public_bytes_raw().hex()
        settings = SiteSettings(
            merchant=MILL,
            server_address="127.0.0.1:1",
            plan_public_key=public,
            base_models={MODEL: self.site.path},
        )
        return Worker(
            settings,
            self.store,
            box,
            BlobStore(self.site.contexts),
            application or self.toy,
            lambda: NOW,
            TaskCodec.of(self.site, self.store.ledger),
            guests=Guests(self.site, settings, self.store, box, lambda: NOW),
        )

    def outbox(self, **more: int) -> Outbox:
        return Outbox(self.site.outbox, **more)

    def booked(self) -> list[type]:
        """What the ledger holds beside its opening."""
        return [type(entry.body) for entry in self.store.ledger.entries[1:]]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    guest_apps.HOLD.clear()
    guest_apps.SEEN.clear()
    more = {"cap_epsilon": 8.0, "delta": 1e-5, "entropy": SeededEntropy(1), "now": NOW}
    with LedgerStore.create(tmp_path / "ledger", **more) as store:
        yield Shop(tmp_path, store)
    guest_apps.HOLD.set()


def blob(data: bytes) -> common.BlobRef:
    return common.BlobRef(sha256=sha256_hex(data), size_bytes=len(data))


def task(plan: AnyPlan, content: bytes, **fields: object) -> pb.Task:
    return pb.Task(
        task_id=task_id(RUN, 1, "train", MILL),
        run_id=RUN,
        round=1,
        phase=pb.PHASE_TRAIN,
        content=blob(content),
        signed_plan=sign(plan.model_dump(mode="json"), KEY, domain=PLAN_DOMAIN).to_bytes(),
        **fields,
    )


def own_task(content: bytes = REQUEST.to_bytes(), **federation: object) -> pb.Task:
    return task(toy_plan(**federation), content, context=blob(CONTEXT.to_bytes()))


def guest_task(content: bytes = GUEST_REQUEST.to_bytes(), settings: bytes = b"") -> pb.Task:
    plan = FlowerPlan(name="toy", server_app=SERVER, client_app=CLIENT, quorum=1, deadline_s=20.0)
    return task(plan, content, settings=settings)


def line() -> Line:
    return Line(REQUEST.to_bytes(), GUEST_REQUEST.to_bytes(), CONTEXT.to_bytes(), b"", b"x")


class TestWhatIsRefused:
    @pytest.mark.parametrize("make", [own_task, guest_task])
    def test_a_content_that_is_too_large_is_refused_with_a_sentence(self, shop, make) -> None:
        class Strict(Line):
            def download(self, *_: object) -> Path:
                raise InvalidInputError("the task's content has 9 bytes, at most 8")

        wire = Strict()
        shop.worker().do(make(), wire)
        (refusal,) = wire.refusals
        assert refusal.reason == pb.REFUSAL_REASON_CONTRACT
        assert "at most 8" in refusal.sentence
        assert shop.booked() == []

    @pytest.mark.parametrize("content", [b"", b"x"])
    @pytest.mark.parametrize("settings", [b"", Content().to_bytes()])
    def test_a_guests_content_that_is_no_message_is_refused_and_ends_nothing(
        self, shop, content: bytes, settings: bytes
    ) -> None:
        wire = line()
        shop.worker().do(guest_task(content, settings), wire)
        assert len(wire.refusals) == 1
        assert shop.outbox().letters() == []

    def test_an_update_that_is_bound_to_be_too_large_is_refused_before_anything_is_spent(
        self, shop
    ) -> None:
        wire = line()
        shop.worker(shop.outbox(max_bytes=len(REQUEST.to_bytes()) - 1)).do(own_task(), wire)
        (refusal,) = wire.refusals
        assert refusal.reason == pb.REFUSAL_REASON_CONTRACT
        assert "larger than" in refusal.sentence
        assert (shop.booked(), shop.toy.rounds) == ([], [])

    def test_an_update_that_turns_out_too_large_is_refused_and_not_kept(self, shop) -> None:
        more = Content(metrics={"more": {"x": [0.0] * 500}})
        toy = ToyApplication(change=lambda reply: Content.merged([reply, more]))
        wire, outbox = line(), shop.outbox(max_bytes=len(REQUEST.to_bytes()) + 100)
        shop.worker(outbox, toy).do(own_task(), wire)
        (refusal,) = wire.refusals
        assert refusal.reason == pb.REFUSAL_REASON_FAILED
        assert "larger than" in refusal.sentence
        assert (shop.booked(), outbox.letters()) == ([Reserve], [])

    def test_a_guests_answer_that_is_too_large_is_refused_not_kept_and_not_declared(
        self, shop
    ) -> None:
        wire, outbox = line(), shop.outbox(max_bytes=100)
        shop.worker(outbox).do(guest_task(), wire)
        (refusal,) = wire.refusals
        assert refusal.reason == pb.REFUSAL_REASON_FAILED
        assert "larger than" in refusal.sentence
        assert (shop.booked(), outbox.letters()) == ([], [])

    def test_the_sentence_about_a_size_does_not_tell_the_size(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError) as refused:
            Outbox(tmp_path, max_bytes=4).put(TaskId("t"), bytes(12345))
        assert "12345" not in str(refused.value)


class TestWhatLiesInTheOutbox:
    def test_a_letter_that_the_server_will_never_take_is_dropped_and_logged(
        self, shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        outbox, wire = shop.outbox(), line()
        outbox.put(TaskId("one"), b"1")
        wire.answer = InvalidInputError("an upload is between 1 and 9 bytes long")
        shop.worker(outbox).settle(wire)
        assert outbox.letters() == []
        assert "the answer to task one is dropped: an upload is between" in caplog.text

    @pytest.mark.parametrize("make", [own_task, guest_task])
    def test_an_update_that_the_disk_has_damaged_is_given_up_and_named(self, shop, make) -> None:
        class Strict(Line):
            def complete(self, letter: Letter, *_: bytes) -> pb.Acknowledgement:
                content = next(shop.site.outbox.glob("*.safetensors"))
                content.write_bytes(content.read_bytes()[:-1] + b"!")
                assert not shop.outbox().is_intact(letter)
                raise InvalidInputError("the content does not have the promised digest")

        wire = Strict(REQUEST.to_bytes(), GUEST_REQUEST.to_bytes(), CONTEXT.to_bytes())
        shop.worker().do(make(), wire)
        assert [one.sentence for one in wire.refusals] == ["the disk lost the update"]
        assert shop.outbox().letters() == []

    def test_a_whole_update_that_the_server_does_not_take_is_kept_for_another_attempt(
        self, shop
    ) -> None:
        class Unwilling(Line):
            def complete(self, *_: object) -> pb.Acknowledgement:
                raise InvalidInputError("the content does not have the promised digest")

        with pytest.raises(TransportError, match="did not take the update"):
            shop.worker().do(own_task(), Unwilling(REQUEST.to_bytes(), CONTEXT.to_bytes()))
        assert len(shop.outbox().letters()) == 1

    def test_a_small_update_travels_with_its_message_and_a_large_one_is_uploaded(
        self, shop
    ) -> None:
        outbox, sent = shop.outbox(), []

        class Watched(Line):
            def complete(self, letter: Letter, _entries: bytes, content: bytes = b"") -> int:
                sent.append((letter.task_id, len(content)))
                return pb.ACKNOWLEDGEMENT_ACCEPTED

            def upload(self, _outbox: Outbox, letter: Letter) -> None:
                sent.append((letter.task_id, "upload"))

        delivery = Delivery(Watched(), outbox, bytes)
        delivery.deliver(outbox.put(TaskId("small"), bytes(INLINE_BYTES)))
        delivery.deliver(outbox.put(TaskId("large"), bytes(INLINE_BYTES + 1)))
        assert sent == [("small", INLINE_BYTES), ("large", "upload"), ("large", 0)]
        assert outbox.letters() == []

    def test_a_server_that_reads_no_content_in_messages_gets_an_upload(self, shop) -> None:
        outbox, sent = shop.outbox(), []

        class Older(Line):
            def complete(self, letter: Letter, _entries: bytes, content: bytes = b"") -> int:
                sent.append("complete")
                whole = "upload" in sent
                return pb.ACKNOWLEDGEMENT_ACCEPTED if whole else pb.ACKNOWLEDGEMENT_MISSING_BLOB

            def upload(self, box: Outbox, letter: Letter) -> None:
                assert b"".join(box.chunks(letter, 0, 9)) == b"an answer"
                sent.append("upload")

        Delivery(Older(), outbox, bytes).deliver(outbox.hold(TaskId("stage"), b"an answer"))
        assert sent == ["complete", "upload", "complete"]
        assert list(shop.site.outbox.glob("*")) == []

    def test_a_line_that_breaks_drops_nothing(self, shop) -> None:
        outbox, wire = shop.outbox(), line()
        outbox.put(TaskId("one"), b"1")
        wire.answer = grpc.RpcError()
        with pytest.raises(grpc.RpcError):
            shop.worker(outbox).settle(wire)
        assert [letter.task_id for letter in outbox.letters()] == ["one"]


class TestWhatIsGivenUp:
    def test_a_full_disk_while_the_round_closes_ends_the_task_and_not_the_client(
        self, shop
    ) -> None:
        wire, asked = line(), threading.Event()

        class Filling(FullDisk):
            def put(self, task: TaskId, content: bytes) -> Letter:
                asked.set()  # the round closes while the disk is full
                return super().put(task, content)

        with interruptible(asked.is_set):
            shop.worker(Filling(shop.site.outbox)).do(own_task(), wire)
        assert asked.is_set()
        assert (wire.refusals, wire.delivered) == ([], [])
        assert shop.booked() == [Reserve]

    def test_work_that_asks_is_answered_with_nothing_once_it_is_unwanted(self, shop) -> None:
        begun = threading.Event()

        class Asking(ToyApplication):
            def __call__(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
                begun.set()
                check_wanted()
                raise AssertionError("nobody wants it")

        wire = line()
        with interruptible(begun.is_set):
            shop.worker(application=Asking()).do(own_task(), wire)
        assert (wire.refusals, wire.delivered, shop.booked()) == ([], [], [Reserve])

    @pytest.mark.parametrize("make", [own_task, guest_task])
    def test_work_that_never_asks_is_thrown_away_and_never_sent_later(self, shop, make) -> None:
        """Nothing is kept that could leave once the site takes part again."""
        wire, outbox = line(), shop.outbox()
        with interruptible(lambda: bool(shop.toy.rounds or guest_apps.SEEN)):
            shop.worker(outbox).do(make(), wire)
        assert shop.toy.rounds == [1] or len(guest_apps.SEEN) == 1
        assert outbox.letters() == []
        assert (wire.refusals, wire.delivered) == ([], [])
        assert Commit not in shop.booked()

    def test_a_guest_whose_work_was_thrown_away_answers_when_the_task_comes_again(
        self, shop
    ) -> None:
        wire = line()
        with interruptible(lambda: True):
            shop.worker().do(guest_task(), wire)
        shop.worker().do(guest_task(), wire)
        assert wire.delivered == [guest_task().task_id]
        assert [row["count"] for row in guest_apps.SEEN] == [1, 1]
