"""Evaluation settings taken from a published folder. Torch-free."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speculators.data.files import EMBEDDED, PROMPTS
from speculators.export.checklist import check_folder
from speculators.format.strict import read_config
from speculators.runfolder.folder import RUN_YAML
from speculators.runfolder.rights import claim, claimed
from speculators.runfolder.run_yaml import read_pin
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.messages import WrongInput


def read_strictly(checkpoint: Path) -> dict[str, Any]:
    """The config of a published folder, after checking config and tensors against the format.

    Raises:
        ValueError: the folder breaks the format; one line per problem.
    """
    config = read_config(checkpoint)
    if found := check_folder(checkpoint, None, None):
        raise ValueError("\n".join(f"{checkpoint}: {finding}" for finding in found))
    return config


def with_its_own(checkpoint: Path, given: Sequence[str]) -> list[str]:
    """Overrides from a checkpoint and the run that made it, for the keys that the given overrides leave open.

    Args:
        checkpoint: its folder.
        given: from the command line; if they choose an option of a group, nothing else of that group is added.

    Raises:
        ValueError: it is no valid published folder; one line per problem.
        WrongInput: its run.yaml is broken, or would run the verifier's own Python code, and `given` does not set that.
    """
    config = read_strictly(checkpoint)
    name, speculators = config["speculators_model_type"], config["speculators_config"]
    fields = AlgorithmSettings.named(name).published_fields.model_fields
    proposal = speculators["proposal_methods"][0]
    verifier = {"name_or_path": speculators["verifier"]["name_or_path"]}
    own = {
        "algorithm": _choice("algorithm", name, {key: config[key] for key in fields if key in config}),
        "proposal": _choice("proposal", proposal["proposal_type"], proposal, aside="proposal_type"),
        "verifier": _choice("verifier", "hf", verifier),
    }
    if not (checkpoint / RUN_YAML).is_file() and verifier["name_or_path"] != EMBEDDED:
        own["data"] = _choice("data", "jsonl", {"path": PROMPTS})
    if (checkpoint / RUN_YAML).is_file():
        run = read_pin(checkpoint)
        key = "verifier.trust_remote_code"
        if key in claimed(run) and not any(o.startswith(("verifier=", f"{key}=")) for o in given):
            raise WrongInput([claim(key, True, checkpoint / RUN_YAML)])
        own["verifier"] = _choice("verifier", "hf", run.verifier.model_dump() | verifier)
        own["data"] = _choice("data", run.data.source, run.data.model_dump(), aside="source")
        own["seed"] = [f"seed={run.seed}"]
    chosen = {override.partition("=")[0] for override in given}
    return [o for group, overrides in own.items() if group not in chosen for o in overrides] + list(given)


def _choice(group: str, option: str, values: Mapping[str, Any], aside: str = "") -> list[str]:
    keys = [f"{group}.{key}={_written(value)}" for key, value in values.items() if key != aside]
    return [f"{group}={option}", *keys]


def _written(value: Any) -> str:
    """A value in the grammar of Hydra's overrides: JSON, but keys have no quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(v)}" for key, v in value.items()) + "}"
    return f"[{', '.join(map(_written, value))}]" if isinstance(value, list) else json.dumps(value)


def is_trained(checkpoint: Path, given: Sequence[str]) -> bool:
    """Whether prompts are taken from the data that a checkpoint was trained on."""
    return (checkpoint / RUN_YAML).is_file() and not any(o.startswith("data=") for o in given)
