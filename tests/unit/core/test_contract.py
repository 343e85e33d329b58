"""The terms themselves: read, compared, offered, and applied to plans."""

import datetime as dt
from contextlib import nullcontext
from pathlib import Path

import pytest

from hansa.core.code_identity import code_identity, installed_code
from hansa.core.contract import (
    TERMS_DOMAIN,
    WEEKDAYS,
    Contract,
    Offer,
    changes,
    parse_contract,
    parse_offer,
)
from hansa.core.contract_rules import check_code, check_down, check_hours, check_plan, check_up
from hansa.core.errors import ContractError, InvalidInputError, SignatureError
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.ids import Sha256
from hansa.core.plan import RunPlan, parse_plan, read_plan
from hansa.core.signing import key_id_of, sign, signing_key

KEY = signing_key(b"p" * 32)
PLANS = sorted((Path(__file__).parents[3] / "demo" / "plans").glob("*.yaml"))


def plan(**parts: dict[str, object]) -> RunPlan:
    privacy = {"sampling_rate": 0.5, "expected_shoppers": 30, "noise_multiplier": 2.0}
    value = {
        "name": "plan",
        "compression": None,
        "privacy": {**privacy, **parts.get("privacy", {})},
        "training": parts.get("training", {}),
        "federation": {"rounds": 3, "quorum": 3, **parts.get("federation", {})},
    }
    return parse_plan(value, "plan")


def check(contract: Contract, asked: RunPlan, delta: float = 1e-5) -> None:
    check_plan(contract, asked, unit="shopper", delta=delta)


class TestWhatAPlanMayAsk:
    @pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
    def test_the_default_terms_allow_the_demos_plans(self, path: Path) -> None:
        check(Contract(), read_plan(path))

    @pytest.mark.parametrize(
        ("term", "asked", "values"),
        [
            ({"min_noise_multiplier": 2.1}, {}, ("2.1", "2")),
            (
                {"min_noise_multiplier": 1.0},
                {"privacy": {"evaluation_noise_multiplier": 0.5, "noise_multiplier": 2.0}},
                ("evaluation", "0.5", "1"),
            ),
            ({"max_sampling_rate": 0.4}, {}, ("0.5", "0.4")),
            ({"max_records_per_shopper": 4}, {"privacy": {"records_per_shopper": 5}}, ("5", "4")),
            ({"trains": ("tower",)}, {"training": {"trains": "lora"}}, ("lora", "tower")),
            (
                {"trains": ("top_layers",)},
                {"training": {"trains": "top_layers", "top_layers": 3}},
                ("3 layers", "2"),
            ),
            ({"max_delta": 1e-6}, {}, ("1e-05", "1e-06")),
            ({"max_rounds": 2}, {}, ("3 rounds", "2")),
            ({"secure_aggregation_only": True}, {}, ("each update",)),
            (
                {},
                {
                    "privacy": {"distributed_noise": {"colluders": 1}},
                    "federation": {"secure_aggregation": {}},
                },
                ("distributed", "local"),
            ),
            (
                {"noise": ("distributed",), "min_colluders": 2},
                {
                    "privacy": {"distributed_noise": {"colluders": 1}},
                    "federation": {"secure_aggregation": {}},
                },
                ("1 colluders", "2"),
            ),
        ],
    )
    def test_a_plan_outside_a_term_is_refused_by_the_terms_name_and_the_values(
        self, term: dict, asked: dict, values: tuple[str, ...]
    ) -> None:
        if "evaluation_noise_multiplier" in asked.get("privacy", {}):
            found = plan().model_copy(
                update={"privacy": plan().privacy.model_copy(update=asked["privacy"])}
            )
        else:
            found = plan(**asked)
        with pytest.raises(ContractError) as refused:
            check(Contract(**term), found)
        assert all(value in str(refused.value) for value in (*list(term)[-1:], *values))

    def test_a_plan_at_the_bound_of_every_term_is_allowed(self) -> None:
        tight = Contract(
            trains=("tower",),
            min_noise_multiplier=2.0,
            max_sampling_rate=0.5,
            max_records_per_shopper=8,
            max_delta=1e-5,
            max_rounds=3,
        )
        check(tight, plan())

    def test_a_plan_of_another_unit_than_the_books_is_refused_with_the_reason(self) -> None:
        other = plan().model_copy(
            update={"privacy": plan().privacy.model_copy(update={"unit": "record"})}
        )
        with pytest.raises(ContractError, match="units"):
            check(Contract(), other)
        with pytest.raises(ContractError, match=r"each shopper, the plan for each record.*added"):
            check(Contract(units=("record", "shopper")), other)

    def test_the_books_delta_bounds_a_plan_whose_contract_says_more(self) -> None:
        with pytest.raises(ContractError, match="max_delta"):
            check(Contract(max_delta=0.5), plan(), delta=1e-6)


class TestHours:
    NIGHT = Contract(hours={"mon": ("22:00-24:00",), "tue": ("00:00-05:30", "12:00-12:30")})

    @pytest.mark.parametrize(
        ("day", "hour", "minute", "allowed"),
        [
            (23, 21, 59, False),  # a Monday
            (23, 22, 0, True),
            (23, 23, 59, True),
            (24, 5, 29, True),
            (24, 5, 30, False),
            (24, 12, 0, True),
            (25, 0, 0, False),
        ],
    )
    def test_work_begins_only_within_them(
        self, day: int, hour: int, minute: int, allowed: bool
    ) -> None:
        now = dt.datetime(2026, 11, day, hour, minute, 59, tzinfo=dt.UTC)
        refusal = pytest.raises(ContractError, match=r"hours is mon 22:00-24:00; tue")
        with nullcontext() if allowed else refusal:
            check_hours(self.NIGHT, now)

    def test_they_are_of_universal_time_wherever_the_machine_stands(self) -> None:
        zone = dt.timezone(dt.timedelta(hours=8))
        check_hours(self.NIGHT, dt.datetime(2026, 11, 24, 6, 30, tzinfo=zone))

    @pytest.mark.parametrize("span", ["5:00-06:00", "05:00-05:00", "23:00-01:00", "00:00-24:01"])
    def test_a_span_that_is_none_is_refused(self, span: str) -> None:
        with pytest.raises(InvalidInputError, match=r"hours\.mon"):
            parse_contract({"hours": {"mon": [span]}}, "terms")


class TestBytesAndCode:
    def test_what_a_task_sends_and_what_an_answer_holds_is_bounded(self) -> None:
        small = Contract(max_down_bytes_per_round=10, max_up_bytes_per_round=5)
        check_down(small, 10)
        check_up(small, 5)
        with pytest.raises(ContractError, match=r"11 bytes.*max_down_bytes_per_round is 10"):
            check_down(small, 11)
        with pytest.raises(ContractError, match="max_up_bytes_per_round is 5") as refused:
            check_up(small, 12345)
        assert "12345" not in str(refused.value)

    def test_code_that_was_not_accepted_is_refused_with_what_to_do(self) -> None:
        here, other = Sha256("a" * 64), Sha256("b" * 64)
        check_code(Contract(), here)
        check_code(Contract(code=(here,)), here)
        with pytest.raises(ContractError, match="--this-code"):
            check_code(Contract(code=(other,)), here)

    def test_the_digest_of_the_code_changes_with_a_byte_a_name_and_nothing_else(
        self, tmp_path: Path
    ) -> None:
        for root in ("one", "two"):
            (tmp_path / root / "core").mkdir(parents=True)
            (tmp_path / root / "core" / "a.py").write_text("x = 1\n")
        (tmp_path / "two" / "core" / "__pycache__").mkdir()
        (tmp_path / "two" / "core" / "__pycache__" / "a.pyc").write_bytes(b"compiled")
        first = code_identity([tmp_path / "one"])
        assert code_identity([tmp_path / "two"]) == first
        (tmp_path / "two" / "core" / "a.py").write_text("x = 2\n")
        assert code_identity([tmp_path / "two"]) != first
        (tmp_path / "one" / "core" / "a.py").rename(tmp_path / "one" / "core" / "b.py")
        assert code_identity([tmp_path / "one"]) != first
        with pytest.raises(InvalidInputError, match="no source"):
            code_identity([tmp_path / "none"])

    def test_the_installed_code_has_one_digest(self) -> None:
        assert installed_code() == installed_code()
        assert len(installed_code()) == 64


class TestWhatTheyAre:
    def test_the_canonical_form_reads_back_to_the_same_digest(self) -> None:
        full = Contract(
            trains=("tower", "lora", "tower"),
            hours={"sun": ("10:00-12:00", "01:00-02:00")},
            month_epsilon=0.1,
        )
        again = parse_contract(full.model_dump(mode="json"), "terms")
        assert (again, again.digest) == (full, full.digest)
        assert full.trains == ("lora", "tower")
        assert full.digest != Contract().digest

    @pytest.mark.parametrize(
        "value",
        [
            {"min_noise": 1.0},
            {"metrics_share": 1.5},
            {"trains": []},
            {"month_epsilon": float("inf")},
            {"lifetime_epsilon": 1.0, "month_epsilon": 2.0},
        ],
    )
    def test_unknown_and_impossible_terms_are_refused(self, value: dict) -> None:
        with pytest.raises(InvalidInputError, match=r"terms: .*; mend this field"):
            parse_contract(value, "terms")

    @pytest.mark.parametrize(
        ("old", "new", "looser"),
        [
            ({"min_noise_multiplier": 2.0}, {"min_noise_multiplier": 1.0}, True),
            ({"min_noise_multiplier": 1.0}, {"min_noise_multiplier": 2.0}, False),
            ({"max_sampling_rate": 0.5}, {}, True),
            ({}, {"month_epsilon": 3.0}, False),
            ({"month_epsilon": 3.0}, {}, True),
            ({"trains": ("tower",)}, {}, True),
            ({}, {"trains": ("tower",)}, False),
            ({"secure_aggregation_only": True}, {}, True),
            ({"releases": False}, {}, True),
            ({}, {"code": ("a" * 64,)}, False),
            ({"code": ("a" * 64,)}, {"code": ("b" * 64,)}, True),
            ({"code": ("a" * 64,)}, {}, True),
            ({}, {"hours": {"mon": ("00:00-24:00",)}}, False),
            ({"hours": dict.fromkeys(WEEKDAYS[:6], ("00:00-24:00",))}, {}, True),
        ],
    )
    def test_a_difference_says_whether_it_allows_more(
        self, old: dict, new: dict, looser: bool
    ) -> None:
        (change,) = changes(Contract(**old), Contract(**new))
        assert change.looser is looser
        assert change.term in {*old, *new}

    def test_equal_terms_differ_in_nothing(self) -> None:
        assert changes(Contract(), Contract()) == ()


class TestWhatIsOffered:
    OFFER = Offer(number=3, contract=Contract(max_rounds=7), note="autumn")

    def test_an_offer_that_the_operator_signed_is_read(self) -> None:
        signed = sign(self.OFFER.model_dump(mode="json"), KEY, domain=TERMS_DOMAIN)
        assert parse_offer(signed.to_bytes(), key_id=key_id_of(KEY)) == self.OFFER

    def test_an_offer_of_another_key_or_for_another_purpose_is_refused(self) -> None:
        payload = self.OFFER.model_dump(mode="json")
        other = sign(payload, signing_key(b"s" * 32), domain=TERMS_DOMAIN)
        plan_like = sign(payload, KEY, domain=PLAN_DOMAIN)
        for signed in (other, plan_like):
            with pytest.raises(SignatureError):
                parse_offer(signed.to_bytes(), key_id=key_id_of(KEY))

    def test_what_is_no_offer_is_refused_in_one_sentence(self) -> None:
        signed = sign({"number": 0, "contract": {}}, KEY, domain=TERMS_DOMAIN)
        with pytest.raises(InvalidInputError, match="the offered terms: number"):
            parse_offer(signed.to_bytes(), key_id=key_id_of(KEY))
