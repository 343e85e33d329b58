"""The run plan: everything that a round will do, written down before it starts.

A plan is public. The operator signs its canonical form, every client checks the signature before it
works, and every ledger entry and release names its digest.
"""

from hansa.core.plan.federation import (
    LARGEST_GROUP,
    SMALLEST_SUM,
    SUMMABLE_STRATEGIES,
    BufferSpec,
    CodecSpec,
    FederationSpec,
    OptionValue,
    QuarantineSpec,
    SecureAggregationSpec,
)
from hansa.core.plan.noise import BandedNoiseSpec, DistributedNoiseSpec
from hansa.core.plan.part import Fraction, Name, PlanPart
from hansa.core.plan.privacy import PrivacySpec
from hansa.core.plan.run import CompressionSpec, RunPlan, parse_plan, read_plan, read_yaml
from hansa.core.plan.training import AdamWSpec, ModelSpec, TaskSpec, TrainingSpec

__all__ = [
    "LARGEST_GROUP",
    "SMALLEST_SUM",
    "SUMMABLE_STRATEGIES",
    "AdamWSpec",
    "BandedNoiseSpec",
    "BufferSpec",
    "CodecSpec",
    "CompressionSpec",
    "DistributedNoiseSpec",
    "FederationSpec",
    "Fraction",
    "ModelSpec",
    "Name",
    "OptionValue",
    "PlanPart",
    "PrivacySpec",
    "QuarantineSpec",
    "RunPlan",
    "SecureAggregationSpec",
    "TaskSpec",
    "TrainingSpec",
    "parse_plan",
    "read_plan",
    "read_yaml",
]
