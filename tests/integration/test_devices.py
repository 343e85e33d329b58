"""A plan that asks a site for more devices than it has."""

from pathlib import Path

import pytest

from hansa.client.ledger_store import read_ledger
from hansa.client.training.devices import check_devices
from hansa.core.plan import RunPlan, TrainingSpec
from tests.fakes.toy_federation import ToyApplication, toy_plan
from tests.integration.federation_harness import Federation, refused

pytestmark = pytest.mark.integration


class OneGpu(ToyApplication):
    """A site with a single GPU; it makes ready as the real application does."""

    def prepare(self, plan: RunPlan) -> None:
        check_devices(plan.training.devices, gpus=1)


def test_a_site_with_too_few_gpus_refuses_before_it_spends_and_says_why(tmp_path: Path) -> None:
    plan = toy_plan("gpus", rounds=1, quorum=1).model_copy(
        update={"training": TrainingSpec(devices=4)}
    )
    with Federation(tmp_path) as federation:
        federation.start_server()
        poor, rich = federation.join("poor"), federation.join("rich")
        toy = OneGpu()
        federation.start_clients({poor: toy, rich: ToyApplication()})
        run = federation.finish(plan)
        assert run.state == "completed", run.sentence
        (round_info,) = run.rounds
        assert refused(round_info) == {"poor": "contract"}
        assert "4 devices and this site has 1 GPUs" in round_info.refused[0].sentence
        assert toy.rounds == []
        assert len(read_ledger(poor.ledger).entries) == 2  # its opening and its contract alone
