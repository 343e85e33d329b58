"""Flower's strategies as a plan names them."""

from flwr.serverapp.strategy import FedAvg, Strategy

from hansa.core.plan import FederationSpec

WEIGHT_KEY = "num-examples"
"""The metric by which FedAvg weighs updates; every client must send 1.

Real counts would be private, and a client could inflate its own.
"""


def make_strategy(spec: FederationSpec) -> Strategy:
    """The plan's strategy; it asks every merchant that is online, and at least the quorum."""
    return FedAvg(
        fraction_train=1.0,
        fraction_evaluate=1.0,
        min_train_nodes=spec.quorum,
        min_evaluate_nodes=1,
        min_available_nodes=spec.quorum,
        weighted_by_key=WEIGHT_KEY,
    )
