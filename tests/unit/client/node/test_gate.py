"""Attacks of a server that asks for more than the merchant agreed to: each is refused by name."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from hansa.client.contract_offer import OfferShelf
from hansa.client.interruption import interruptible
from hansa.client.ledger_store import LedgerFile, LedgerStore
from hansa.client.node.work import Worker
from hansa.core.contract import TERMS_DOMAIN, Contract, Offer
from hansa.core.ids import task_id
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.bodies import Accept, Refuse, Release, Reserve
from hansa.core.privacy.entries import Entry
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.signing import key_id_of, sign, signing_key
from hansa.protos.v1 import federation_pb2 as pb
from tests.fakes.entropy import SeededEntropy
from tests.fakes.toy_federation import toy_plan
from tests.unit.client.node.test_work import (
    KEY,
    MILL,
    NOW,
    REQUEST,
    RUN,
    Shop,
    guest_task,
    line,
    own_task,
    task,
)

AGREED = Contract(metrics_share=1.0)


def shop_under(folder: Path, contract: Contract) -> Iterator[Shop]:
    more = {"cap_epsilon": 8.0, "delta": 1e-5, "entropy": SeededEntropy(1), "now": NOW}
    with LedgerStore.create(folder / "ledger", **more) as store:
        store.accept(contract, now=NOW)
        yield Shop(folder, store)


@pytest.fixture
def contract() -> Contract:
    """What the merchant agreed to; a test overrides it."""
    return AGREED


@pytest.fixture
def shop(tmp_path: Path, contract: Contract) -> Iterator[Shop]:
    yield from shop_under(tmp_path, contract)


def asked_for(**privacy: object) -> RunPlan:
    """The toy's plan with other constants."""
    plan = toy_plan().model_dump(mode="json")
    plan["privacy"].update(privacy)
    return parse_plan(plan, "the plan")


def refusal_of(shop: Shop, asked: pb.Task, worker: Worker | None = None) -> str:
    """The sentence of the refusal; nothing was fetched, spent or trained for it."""
    before, wire = shop.booked(), line()
    (worker or shop.worker()).do(asked, wire)
    (refusal,) = wire.refusals
    assert refusal.reason == pb.REFUSAL_REASON_CONTRACT
    assert (shop.booked(), shop.toy.rounds, wire.delivered) == (before, [], [])
    return refusal.sentence


def own(plan: RunPlan) -> pb.Task:
    return task(plan, REQUEST.to_bytes())


class TestAServerThatAsksForMore:
    def test_what_is_agreed_is_done(self, shop: Shop) -> None:
        wire = line()
        shop.worker().do(own_task(), wire)
        assert (wire.refusals, shop.toy.rounds) == ([], [1])

    @pytest.mark.parametrize("contract", [Contract(min_noise_multiplier=20.0)])
    def test_less_noise(self, shop: Shop) -> None:
        sentence = refusal_of(shop, own(asked_for(noise_multiplier=19.5)))
        assert "noise multiplier is 19.5" in sentence
        assert "min_noise_multiplier is 20" in sentence

    @pytest.mark.parametrize("contract", [Contract(trains=("tower",))])
    def test_more_layers(self, shop: Shop) -> None:
        plan = toy_plan().model_dump(mode="json")
        plan["training"]["trains"] = "lora"
        assert "trains 'lora'" in refusal_of(shop, own(parse_plan(plan, "the plan")))

    def test_all_layers_where_the_merchant_said_nothing(self, shop: Shop) -> None:
        plan = toy_plan().model_dump(mode="json")
        plan["training"]["trains"] = "full"
        sentence = refusal_of(shop, own(parse_plan(plan, "the plan")))
        assert "trains is lora, tower" in sentence

    def test_another_plan_within_a_run(self, shop: Shop) -> None:
        shop.worker().do(own_task(), line())
        shop.toy.rounds.clear()
        other = task(asked_for(clip_norm=2.0), REQUEST.to_bytes())
        other.round, other.task_id = 2, task_id(RUN, 2, "train", MILL)
        assert "a run keeps its plan" in refusal_of(shop, other)

    def test_an_old_plan_that_was_signed_for_another_run(self, shop: Shop) -> None:
        """The signature holds: it was the plan of a run last year, under other terms."""
        old = task(toy_plan("last-year"), REQUEST.to_bytes())
        assert "is not that of run 'toy-0001'" in refusal_of(shop, old)

    def test_one_round_more_than_planned(self, shop: Shop) -> None:
        beyond = own_task(rounds=2)
        beyond.round, beyond.task_id = 3, task_id(RUN, 3, "train", MILL)
        assert "not part of its plan" in refusal_of(shop, beyond)

    def test_one_round_more_than_the_plans_cap_allows(self, tmp_path: Path) -> None:
        """Each round may be within the plan: the merchant's cap counts all of them."""
        event = PrivacyPlan.of(toy_plan()).round_event()
        more = {"cap_epsilon": 8.0, "delta": 1e-5, "entropy": SeededEntropy(1), "now": NOW}
        with LedgerStore.create(tmp_path / "ledger", **more) as store:
            one = store.ledger.would_spend([event])
            store.accept(Contract(plan_epsilon=1.01 * one), now=NOW)
            shop, wire = Shop(tmp_path, store), line()
            shop.worker().do(own_task(rounds=2), wire)
            second = own_task(rounds=2)
            second.round, second.task_id = 2, task_id(RUN, 2, "train", MILL)
            shop.worker().do(second, wire)
            (refusal,) = wire.refusals
            assert refusal.reason == pb.REFUSAL_REASON_BUDGET
            assert "the cap for one plan" in refusal.sentence
            assert shop.toy.rounds == [1]
            assert shop.booked()[-1] is Refuse

    def test_another_unit(self, shop: Shop) -> None:
        sentence = refusal_of(shop, own(asked_for(unit="record")))
        assert "protects each record" in sentence

    @pytest.mark.parametrize("contract", [Contract(units=("record", "shopper"))])
    def test_another_unit_than_the_books(self, shop: Shop) -> None:
        sentence = refusal_of(shop, own(asked_for(unit="record")))
        assert "counts epsilon for each shopper" in sentence

    @pytest.mark.parametrize("contract", [Contract(max_down_bytes_per_round=2000)])
    @pytest.mark.parametrize("make", [own_task, guest_task])
    def test_too_many_bytes_down(self, shop: Shop, make) -> None:
        asked = make()
        asked.content.size_bytes = 2001
        assert "max_down_bytes_per_round is 2000" in refusal_of(shop, asked)

    @pytest.mark.parametrize("contract", [Contract(max_up_bytes_per_round=50)])
    def test_too_many_bytes_up(self, shop: Shop) -> None:
        assert "max_up_bytes_per_round is 50" in refusal_of(shop, own_task())

    @pytest.mark.parametrize("contract", [Contract(hours={"fri": ("01:00-02:00",)})])
    @pytest.mark.parametrize("make", [own_task, guest_task])
    def test_work_outside_the_hours(self, shop: Shop, make) -> None:
        sentence = refusal_of(shop, make())
        assert "it is thu 00:00 UTC" in sentence
        assert "fri 01:00-02:00" in sentence

    @pytest.mark.parametrize("contract", [Contract(code=("c" * 64,))])
    @pytest.mark.parametrize("make", [own_task, guest_task])
    def test_work_of_other_code(self, shop: Shop, make) -> None:
        assert "it was changed" in refusal_of(shop, make())

    def test_a_larger_delta(self, shop: Shop) -> None:
        assert "delta" in refusal_of(shop, own(asked_for(delta=1e-4)))

    @pytest.mark.parametrize("contract", [Contract(secure_aggregation_only=True)])
    def test_updates_that_it_can_see_singly(self, shop: Shop) -> None:
        assert "secure_aggregation_only is yes" in refusal_of(shop, own_task())


class TestACapRaisedBehindTheMerchantsBack:
    """No message of the server changes what the merchant agreed to."""

    def offer(self, shop: Shop, number: int, contract: Contract, key=KEY) -> bytes:
        offer = Offer(number=number, contract=contract)
        return sign(offer.model_dump(mode="json"), key, domain=TERMS_DOMAIN).to_bytes()

    def shelf(self, shop: Shop) -> OfferShelf:
        return OfferShelf(shop.site.offered_terms, key_id_of(KEY))

    @pytest.mark.parametrize("contract", [Contract(min_noise_multiplier=25.0, plan_epsilon=0.5)])
    def test_offered_terms_lie_on_the_shelf_and_the_old_ones_hold(self, shop: Shop) -> None:
        loose = Contract(min_noise_multiplier=0.0, plan_epsilon=None, metrics_share=1.0)
        self.shelf(shop).note(self.offer(shop, 1, loose))
        assert self.shelf(shop).read().contract == loose
        assert "min_noise_multiplier is 25" in refusal_of(shop, own_task())
        assert shop.booked() == [Accept]
        assert shop.store.ledger.caps.plan == 0.5
        assert shop.store.ledger.cap_epsilon == 8.0

    def test_an_older_offer_does_not_replace_a_newer_one(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        shelf = self.shelf(shop)
        shelf.note(self.offer(shop, 2, Contract(max_rounds=2)))
        shelf.note(self.offer(shop, 1, Contract(max_rounds=1)))
        assert shelf.read().number == 2
        assert "old terms" in caplog.text

    def test_an_offer_that_somebody_else_signed_is_no_offer(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        stranger = signing_key(b"s" * 32)
        for sent in (self.offer(shop, 1, Contract(), stranger), b"{}", b"\xff", bytes(70_000)):
            self.shelf(shop).note(sent)
        assert self.shelf(shop).read() is None
        assert "cannot be read" in caplog.text


class TestTheClock:
    @pytest.mark.parametrize("ahead", [dt.timedelta(days=2), -dt.timedelta(days=2)])
    def test_a_clock_that_is_days_off_the_servers_does_no_work(self, shop: Shop, ahead) -> None:
        worker = shop.worker()
        worker.check_clock(ahead)
        assert "more than a day off" in refusal_of(shop, own_task(), worker)

    def test_a_clock_that_was_moved_back_does_no_work(self, tmp_path: Path) -> None:
        later = NOW + dt.timedelta(days=40)
        more = {"cap_epsilon": 8.0, "delta": 1e-5, "entropy": SeededEntropy(1), "now": later}
        with LedgerStore.create(tmp_path / "ledger", **more) as store:
            sentence = refusal_of(Shop(tmp_path, store), own_task())
        assert "the clock was moved back; set it right" in sentence


class TestWhatIsGivenUpBeforeItBegan:
    def test_what_is_unwanted_before_it_is_paid_for_costs_nothing(self, shop: Shop) -> None:
        with interruptible(lambda: True):
            shop.worker().do(own_task(), line())
        assert (shop.booked(), shop.toy.rounds) == ([Accept], [])

    def test_what_becomes_unwanted_while_it_is_paid_for_is_taken_back(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The round closes while the reservation goes to the disk: no data were touched."""
        unwanted, keep = [], LedgerFile.keep

        def keeping(file: LedgerFile, entry: Entry) -> None:
            keep(file, entry)
            unwanted.append(entry)

        monkeypatch.setattr(LedgerFile, "keep", keeping)
        wire = line()
        with interruptible(lambda: bool(unwanted)):
            shop.worker().do(own_task(), wire)
        assert shop.booked() == [Accept, Reserve, Release]
        assert (shop.toy.rounds, wire.delivered, wire.refusals) == ([], [], [])
        assert shop.store.ledger.spent_epsilon() == 0.0
        again = line()
        shop.worker().do(own_task(), again)
        assert [one.reason for one in again.refusals] == [pb.REFUSAL_REASON_INTERRUPTED]
        assert shop.toy.rounds == []
