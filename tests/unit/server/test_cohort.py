from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.plan import FederationSpec, QuarantineSpec
from hansa.server.rounds.cohort import draw, exhausted, quarantines, wanted
from hansa.server.state.runs import Refusal, RoundRecord

MILL, PORT = MerchantId("mill"), MerchantId("port")
RULE = QuarantineSpec(faults=2, rounds=3)


def record(number: int, **outcomes: str) -> RoundRecord:
    """``mill="ok"`` or ``mill="deadline"``; a name that is absent was not asked."""
    cohort = [MerchantId(name) for name in outcomes]
    return RoundRecord(
        number=number,
        cohort=cohort,
        accepted={name: Sha256("0" * 64) for name in cohort if outcomes[name] == "ok"},
        refused={
            name: Refusal(reason=outcomes[name], sentence="")
            for name in cohort
            if outcomes[name] != "ok"
        },
        aggregate_sha256=Sha256("0" * 64),
        seconds=0.1,
        down_bytes=1,
        up_bytes=1,
    )


def rounds(*mill: str) -> list[RoundRecord]:
    return [record(number, mill=outcome, port="ok") for number, outcome in enumerate(mill, 1)]


def spec(**fields: object) -> FederationSpec:
    return FederationSpec.model_validate({"rounds": 1, "quorum": 1, **fields})


class TestQuarantine:
    def test_two_faults_in_a_row_leave_a_merchant_out_for_three_rounds(self) -> None:
        assert quarantines(rounds("ok", "failed", "deadline"), RULE) == {MILL: 6}

    def test_one_fault_or_two_with_a_success_between_change_nothing(self) -> None:
        assert quarantines(rounds("rejected"), RULE) == {}
        assert quarantines(rounds("rejected", "ok", "rejected"), RULE) == {}

    def test_after_its_end_one_more_fault_begins_the_next(self) -> None:
        records = [*rounds("failed", "failed"), record(6, mill="failed", port="ok")]
        assert quarantines(records, RULE) == {MILL: 9}

    def test_after_its_end_a_valid_update_clears_the_record(self) -> None:
        records = [*rounds("failed", "failed"), record(6, mill="ok"), record(7, mill="failed")]
        assert quarantines(records, RULE) == {MILL: 5}

    def test_a_spent_budget_or_a_full_cohort_is_no_fault(self) -> None:
        assert quarantines(rounds("budget", "budget", "surplus", "surplus"), RULE) == {}

    def test_being_left_out_is_no_further_fault(self) -> None:
        """The record of a round names who was in quarantine, but did not ask it."""
        left_out = record(3, port="ok")
        left_out.refused[MILL] = Refusal(reason="deadline", sentence="")
        assert quarantines([*rounds("failed", "failed"), left_out], RULE) == {MILL: 5}


class TestTheDraw:
    NAMES = tuple(MerchantId(f"m{number}") for number in range(10))

    def drawn(self, run: str, number: int, count: int = 3) -> list[MerchantId]:
        return draw(self.NAMES, count, run=RunId(run), round_number=number)

    def test_repeated_it_is_the_same_whatever_the_order(self) -> None:
        again = draw(self.NAMES[::-1], 3, run=RunId("r"), round_number=1)
        assert again == self.drawn("r", 1)
        assert len(set(again)) == 3

    def test_over_many_rounds_everybody_is_drawn_about_as_often(self) -> None:
        counts = dict.fromkeys(self.NAMES, 0)
        for number in range(1000):
            for name in self.drawn("r", number):
                counts[name] += 1
        assert all(240 < count < 360 for count in counts.values())

    def test_another_run_draws_otherwise(self) -> None:
        first = [self.drawn("a", number) for number in range(5)]
        assert first != [self.drawn("b", number) for number in range(5)]

    def test_over_selection_is_rounded_up_and_never_asks_more_than_there_are(self) -> None:
        plan = spec(cohort=3, over_selection=0.25)
        assert wanted(plan, 10) == 4
        assert wanted(plan, 2) == 2
        assert wanted(spec(), 10) == 10


def test_whoever_refused_for_its_budget_once_is_exhausted() -> None:
    assert exhausted(rounds("ok", "budget", "ok")) == {MILL}
