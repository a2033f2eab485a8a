"""Evaluation settings taken from a published folder. Torch-free."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from speculators.data.files import EMBEDDED, PROMPTS
from speculators.export.checklist import check_folder
from speculators.format.strict import read_config
from speculators.runfolder.folder import RUN_YAML, RunFolder
from speculators.runfolder.rights import claim, claimed
from speculators.runfolder.run_yaml import load, read_pin
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


def with_its_own(checkpoint: Path, given: Sequence[str]) -> tuple[list[str], dict[Path, dict[str, Any]]]:
    """What to compose an evaluation from: a checkpoint and the run that made it decide what the overrides leave open.

    Args:
        checkpoint: its folder.
        given: overrides from the command line; if they choose an option of a group, nothing of that group is taken over.

    Returns:
        Overrides, and by file the values by key that `compose` takes over as they are, for keys that are not overridden.

    Raises:
        ValueError: it is no valid published folder; one line per problem.
        WrongInput: its run.yaml is broken, or would run the verifier's own Python code, and `given` does not set that.
    """
    config, chosen = read_strictly(checkpoint), {override.partition("=")[0] for override in given}
    name, speculators = config["speculators_model_type"], config["speculators_config"]
    fields = AlgorithmSettings.named(name).published_fields.model_fields
    proposal = speculators["proposal_methods"][0]
    options = {"algorithm": name, "proposal": proposal["proposal_type"], "verifier": "hf"}
    groups: dict[str, Any] = {
        "algorithm": {key: config[key] for key in fields if key in config},
        "proposal": proposal,
        "verifier": {"name_or_path": speculators["verifier"]["name_or_path"]},
    }
    pinned: dict[str, Any] = {}
    file = run_yaml_of_draft(checkpoint)
    if file.is_file():
        run = read_pin(file)
        key = "verifier.trust_remote_code"
        if key in claimed(run) and not any(o.startswith(("verifier=", f"{key}=")) for o in given):
            raise WrongInput([claim(key, True, file)])
        options["data"] = run.data.source
        values = {"seed": run.seed, "data": run.data.model_dump(), "verifier": run.verifier.model_dump()}
        pinned = _by_key(values, chosen)
    elif groups["verifier"]["name_or_path"] != EMBEDDED:
        options["data"] = "jsonl"
        groups["data"] = {"path": PROMPTS}
    overrides = [f"{group}={option}" for group, option in options.items() if group not in chosen]
    # The verifier that config.json names is the one that engines load, so it counts.
    return [*overrides, *given], {file: pinned, checkpoint / "config.json": _by_key(groups, chosen)}


def run_yaml_of_draft(checkpoint: Path) -> Path:
    """The run.yaml that made a published draft: in the folder of its run the run's own, which has the paths in full."""
    published, own = checkpoint / RUN_YAML, RunFolder(checkpoint.parent)
    if not published.is_file() or not own.run_yaml.is_file() or own.checkpoint != checkpoint:
        return published
    read = load(published).read
    return own.run_yaml if read and load(own.run_yaml).read == read else published


def _by_key(groups: Mapping[str, Any], chosen: Collection[str]) -> dict[str, Any]:
    """The values of the groups that are not chosen, by dotted key."""
    found: dict[str, Any] = {}
    for group, values in groups.items():
        if group not in chosen:
            found |= {f"{group}.{key}": v for key, v in values.items()} if isinstance(values, dict) else {group: values}
    return found


def is_trained(checkpoint: Path, given: Sequence[str]) -> bool:
    """Whether prompts are taken from the data that a checkpoint was trained on."""
    return (checkpoint / RUN_YAML).is_file() and not any(o.startswith("data=") for o in given)
