"""The example app in Flower's own simulation, as a process of its own.

``python -m tests.fakes.simulated_quickstart OUT.npz '{"num-server-rounds": 2, ...}'``, with the
example's folder on ``PYTHONPATH``. ``run_simulation`` knows no run configuration; the two classes
here put it into the contexts, and leave the app as it is.
"""

import json
import os
import sys

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from torch_quickstart.client_app import app as client_app
from torch_quickstart.server_app import app as server_app

from hansa.core.quiet import stay_offline

CONFIG = "QUICKSTART_CONFIG"


def configured(context: Context) -> Context:
    return Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config=context.node_config,
        state=context.state,
        run_config=json.loads(os.environ[CONFIG]),
    )


class ConfiguredClient(ClientApp):
    def __call__(self, message: Message, context: Context) -> Message:
        return client_app(message, configured(context))


class ConfiguredServer(ServerApp):
    def __call__(self, grid: Grid, context: Context) -> None:
        server_app(grid, configured(context))


def main(out: str, config: str) -> None:
    stay_offline(os.environ)
    os.environ[CONFIG] = json.dumps({**json.loads(config), "save-as": f"{out}.pt"})
    start = {"include_dashboard": False, "log_to_driver": False, "num_cpus": 1}
    run_simulation(
        server_app=ConfiguredServer(),
        client_app=ConfiguredClient(),
        num_supernodes=2,
        backend_config={
            "init_args": start,
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    arrays = torch.load(f"{out}.pt", weights_only=True)
    np.savez(out, **{name: array.numpy() for name, array in arrays.items()})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
