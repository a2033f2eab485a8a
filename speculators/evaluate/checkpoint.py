"""What a published folder says of how it is to be evaluated. Torch-free."""

import json
from pathlib import Path
from typing import Any

from speculators.pin import FILE, read_pin
from speculators.run_config import RunConfig


def own_overrides(checkpoint: Path) -> list[str]:
    """Overrides that choose a checkpoint's own algorithm, verifier and proposal.

    Raises:
        ValueError: the folder has no config.json, or it is no speculator's.
    """
    file = checkpoint / "config.json"
    if not file.is_file():
        raise ValueError(f"{checkpoint}: there is no config.json; give a published folder, such as RUN/checkpoint")
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if "speculators_config" not in config:
        raise ValueError(f"{file}: it has no speculators_config; an engine's own format cannot be evaluated")
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
