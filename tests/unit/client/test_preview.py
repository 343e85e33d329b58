"""What a plan says about what would leave."""

import json
from pathlib import Path

import pytest

from hansa.client.preview import preview
from hansa.compression.codec import encoded_bytes
from hansa.core.plan import parse_plan
from tests.fakes.tiny_world import PLAN


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 32, "num_hidden_layers": 2}))
    return {"minilm": tmp_path}


@pytest.mark.parametrize(("bits", "sizes"), [(32, [64, 16]), (8, None), (4, None)])
def test_the_bytes_are_those_of_the_plans_codec(
    bits: int, sizes: list[int] | None, models: dict[str, Path]
) -> None:
    federation = {**dict(PLAN["federation"]), "codec": {"uplink_bits": bits}}
    plan = parse_plan({**PLAN, "federation": federation}, "the plan")
    seen = preview(plan, models)
    expected = sizes or [encoded_bytes((4, 4), bits=bits), encoded_bytes((4,), bits=bits)]
    assert [tensor.size_bytes for tensor in seen.tensors] == expected
    assert seen.bytes_per_round == sum(expected)
    assert (f"rounded to {bits} bits" in seen.tensors_protection) == (bits != 32)


def test_distributed_noise_is_called_a_share_that_leaves_only_in_a_sum(
    models: dict[str, Path],
) -> None:
    body = json.loads(json.dumps(dict(PLAN)))
    body["privacy"] |= {"distributed_noise": {"colluders": 1}}
    body["training"] |= {"local_steps": 1}
    body["federation"] |= {"quorum": 4, "secure_aggregation": {"fraction_bits": 32}}
    seen = preview(parse_plan(body, "the plan"), models)
    assert "a share of noise" in seen.tensors_protection
    assert "3 honest shares" in seen.tensors_protection
    assert [tensor.size_bytes for tensor in seen.tensors] == [128, 32]


def test_for_the_unit_record_the_shoppers_own_larger_figure_is_shown_too(
    models: dict[str, Path],
) -> None:
    body = json.loads(json.dumps(dict(PLAN)))
    body["privacy"] |= {"unit": "record", "records_per_shopper": 2}
    seen = preview(parse_plan(body, "the plan"), models)
    assert seen.unit == "record"
    assert float(seen.epsilon_total_of_a_shopper) > float(seen.epsilon_total)
    assert "per record" in seen.tensors_protection
