"""The server has the training code attacked in a process of its own."""

import pytest

from hansa.core.code_identity import installed_code
from hansa.core.empirical import EmpiricalResult
from hansa.server import empirical
from hansa.server.empirical import EmpiricalAuditError, audit_training
from tests.fakes.attacked_plans import attacked_plan
from tests.fakes.empirical_results import empirical_body

pytestmark = pytest.mark.integration


def test_the_servers_audit_is_of_its_plan_seed_and_installation() -> None:
    plan = attacked_plan()
    found = audit_training(plan, 3)
    assert (found.plan_digest, found.code_digest, found.seed) == (plan.digest, installed_code(), 3)
    assert found.passed
    assert len(found.experiments) == 4
    assert 0.0 < found.lower_bound < found.claimed_epsilon == pytest.approx(0.926, abs=1e-3)


def test_an_audit_that_takes_too_long_ends_and_says_so() -> None:
    with pytest.raises(EmpiricalAuditError, match="not wanted any more"):
        audit_training(attacked_plan(), 0, limit_s=0.01)


def test_without_the_clients_code_the_server_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(empirical, "PROGRAM", "hansa.client_that_is_not_there")
    with pytest.raises(EmpiricalAuditError, match=r"install hansa\[client\]"):
        audit_training(attacked_plan(), 0)


def _answer(**change: object) -> bytes:
    body = empirical_body(attacked_plan().digest, installed_code())
    return EmpiricalResult.model_validate({**body, **change}).to_bytes()


def test_an_answer_of_another_plan_seed_or_installation_is_refused() -> None:
    assert empirical._checked(_answer(), attacked_plan(), 0).passed
    with pytest.raises(EmpiricalAuditError, match="another plan or seed"):
        empirical._checked(_answer(), attacked_plan(), 1)
    with pytest.raises(EmpiricalAuditError, match="another plan or seed"):
        empirical._checked(_answer(plan_digest="0" * 64), attacked_plan(), 0)
    with pytest.raises(EmpiricalAuditError, match="installation changed"):
        empirical._checked(_answer(code_digest="0" * 64), attacked_plan(), 0)


def test_an_answer_whose_bounds_do_not_follow_from_its_counts_is_refused() -> None:
    with pytest.raises(EmpiricalAuditError, match="do not follow"):
        empirical._checked(_answer(tries=1), attacked_plan(), 0)
    with pytest.raises(EmpiricalAuditError, match="is not JSON"):
        empirical._checked(b"no result", attacked_plan(), 0)
