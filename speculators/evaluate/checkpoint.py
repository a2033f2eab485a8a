"""What a published folder says of how it is to be evaluated. Torch-free."""

import json
from pathlib import Path
from typing import Any

from speculators.export.checklist import check_folder
from speculators.pin import FILE, read_pin
from speculators.run_config import RunConfig
from speculators.strict import read_config


def read_strictly(checkpoint: Path) -> dict[str, Any]:
    """The config of a published folder that is what its format says, tensors included.

    Raises:
        ValueError: it is none; a line a problem.
    """
    config = read_config(checkpoint)
    if found := check_folder(checkpoint, None, None):
        raise ValueError("\n".join(f"{checkpoint}: {finding}" for finding in found))
    return config


def own_overrides(checkpoint: Path) -> list[str]:
    """Overrides that choose a checkpoint's own algorithm, verifier and proposal.

    Raises:
        ValueError: it is no sound published folder; a line a problem.
    """
    config = read_strictly(checkpoint)
    speculators = config["speculators_config"]
    proposal = speculators["proposal_methods"][0]
    values = {k: v for k, v in proposal.items() if k != "proposal_type"}
    return [
        f"algorithm={config['speculators_model_type']}",
        f"proposal={proposal['proposal_type']}",
        *(f"proposal.{key}={json.dumps(value)}" for key, value in values.items()),
        "verifier=hf",
        f"verifier.name_or_path={json.dumps(speculators['verifier']['name_or_path'])}",
    ]


def training_run(checkpoint: Path) -> RunConfig | None:
    """The run that made a checkpoint; None if it does not say."""
    return read_pin(checkpoint) if (checkpoint / FILE).is_file() else None
