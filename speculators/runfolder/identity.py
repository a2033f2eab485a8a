"""Identity of a run: the settings and input hashes that determine its weights; checkpoints store it. Torch-free."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speculators.runfolder.keys import weights_settings
from speculators.settings.run_config import RunConfig
from speculators.utils.dotted import flat
from speculators.utils.messages import WrongInput
from speculators.utils.untrusted import read_json

# Locations of inputs; their contents are identified by the hashes.
PLACES = (
    "data.path", "evaluation.data.path", "verifier.name_or_path", "verifier.revision", "trainer.init_from", "algorithm.init_from",
)  # fmt: skip
STATE = "state.json"
# Hashes that do not identify weights: one that follows from the others, and that of prompts which are only decoded.
NO_INPUTS = ("vocabulary_map", "evaluation_data")


def identity(run: RunConfig, read: Mapping[str, str]) -> dict[str, Any]:
    """Values by key: the settings that determine the weights, and as `read.NAME` the hashes of the inputs.

    Args:
        run: its settings.
        read: hashes of the inputs, as in `run.yaml`.
    """
    settings = flat(weights_settings(run))
    hashes = {f"read.{name}": hash for name, hash in read.items() if name not in NO_INPUTS}
    return {key: value for key, value in settings.items() if key not in PLACES} | hashes


def trained(checkpoints: Path) -> dict[str, Any]:
    """The identity of the run that wrote the newest checkpoint in a folder; empty if it cannot be read."""
    files = sorted(checkpoints.glob(f"step_*/{STATE}"), key=lambda file: (len(file.parent.name), file.parent.name))
    try:
        found = read_json(files[-1]).get("identity") if files else {}
    except ValueError:
        found = {}  # resuming reports the broken file
    return found if isinstance(found, dict) else {}


def check_same(own: Mapping[str, Any], theirs: Mapping[str, Any], checkpoint: Path) -> None:
    """Check that a checkpoint was written by the run that would resume from it.

    Args:
        own: identity of the run.
        theirs: identity of the run that wrote the checkpoint; keys that only one of them has are not compared.
        checkpoint: for the message.

    Raises:
        WrongInput: another run wrote it; a message for each key that differs.
    """
    differing = [key for key in own if key in theirs and own[key] != theirs[key]]
    if differing:
        raise WrongInput([_message(key, own[key], theirs[key], checkpoint) for key in differing])


def _message(key: str, own: Any, theirs: Any, checkpoint: Path) -> str:
    if key.startswith("read."):
        name = key.removeprefix("read.").replace("_", " ")
        said = f"it was trained with another {name} ({theirs[:19]}, now {own[:19]}); restore that {name}"
    else:
        said = (
            f"it was trained with {key}={json.dumps(theirs)}, and the run has {json.dumps(own)}; set it to that value"
        )
    return f"{checkpoint}: {said}, or train in a new folder"
