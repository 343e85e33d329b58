"""Who is asked, how often, and how the answers become a model."""

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from torch_quickstart.task import make_net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs FedAvg, and saves the model where ``save-as`` says."""
    rounds = int(context.run_config["num-server-rounds"])
    strategy = FedAvg(fraction_evaluate=float(context.run_config["fraction-evaluate"]))
    result = strategy.start(
        grid=grid, initial_arrays=ArrayRecord(make_net().state_dict()), num_rounds=rounds
    )
    target = str(context.run_config.get("save-as", ""))
    if target:
        torch.save(result.arrays.to_torch_state_dict(), target)
