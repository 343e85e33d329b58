"""Keeps libraries from looking for the network and from talking over the commands' own words.

Every command begins with it. Unless told otherwise before they are imported, Hugging Face would
ask a hub, Flower would send telemetry and ask for updates, Ray would report how it is used, and
ONNX Runtime (since 1.32, on Linux too) would keep a device id in the home folder and report to its
maker some ten seconds later.
"""

import logging
from collections.abc import MutableMapping

_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_TALKATIVE = ("flwr", "bm25s", "alembic", "torch.onnx", "httpx")


def stay_offline(environment: MutableMapping[str, str]) -> None:
    """Forbids every look-up; ``environment`` is the process's own, before anything is imported."""
    environment.update(_SETTINGS)


def configure_logging(*, verbose: bool) -> None:
    """Hansa's own log at INFO, or DEBUG; of others' only warnings. Call it after the imports."""
    layout = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    # ``force``: some libraries have set up the root logger while they were imported.
    logging.basicConfig(level=logging.WARNING, format=layout, force=True)
    logging.getLogger("hansa").setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
