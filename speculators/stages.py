"""Which settings decide what: a name for the weights that training gives, and one for all that a run gives. Torch-free."""

import hashlib
import json
from pathlib import Path
from typing import Any

from speculators.inputs import file_hash
from speculators.run_config import RunConfig

WEIGHTS = ("seed", "precision", "algorithm", "verifier", "data", "optimizer", "schedule", "trainer")
RESULT = (*WEIGHTS, "proposal", "evaluation", "export")
# Of `trainer`, what is only written more or less often. Device, threads, tracker and launch decide nothing either.
WRITTEN = {"trainer": {"log_every", "save_every", "keep_last"}}


def weights_key(run: RunConfig) -> str:
    """The same for runs that train the same weights."""
    return _hash(run, WEIGHTS)


def result_key(run: RunConfig) -> str:
    """The same for runs that end with the same checkpoint and the same evaluation."""
    return _hash(run, RESULT)


def _hash(run: RunConfig, groups: tuple[str, ...]) -> str:
    """12 hexadecimal digits of the groups' settings, and of the data where that is a file."""
    settings: dict[str, Any] = run.model_dump(mode="json", include=set(groups), exclude=WRITTEN)
    path = settings["data"].get("path")
    if path and Path(path).is_file():
        settings["data"]["sha256"] = file_hash(Path(path))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
