"""Rights that an untrusted `run.yaml` cannot grant itself; they are given on the command line. Torch-free."""

import json
import shlex
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from speculators.runfolder.identity import PLACES
from speculators.settings.run_config import RunConfig
from speculators.utils.dotted import flat, holder
from speculators.utils.messages import WrongInput, complaints, key_of
from speculators.utils.untrusted import parse_value
from speculators.utils.yaml_lines import Lines

NAME = "verifier.name_or_path"


@cache
def harmless() -> dict[str, tuple[Any, ...]]:
    """Values that need no right, by key of a security-relevant setting.

    Other values can run foreign code, write or delete files outside the run's folder, send measurements or the draft to
    other machines, or occupy an accelerator.
    """
    defaults: Any = Lines((files("speculators.conf") / "train.yaml").read_text(encoding="utf-8")).value
    return {
        "verifier.trust_remote_code": (False,),
        "cache.dir": (defaults["cache"]["dir"],),
        "cache.limit_gb": (defaults["cache"]["limit_gb"],),
        "tracker.name": ("none", "tensorboard"),
        "export.hub_repo": (None,),
        "device": ("auto", "cpu"),
        "launch.rdzv_endpoint": (None,),
        # Of verifier_states=served alone.
        "verifier_states.url": (None,),
        "verifier_states.python": (None,),
        "verifier_states.args": (None,),
        "verifier_states.folder": (None,),
        # Of verifier_answers=served alone.
        "verifier_answers.url": (None,),
        "verifier_answers.python": (None,),
        "verifier_answers.args": (None,),
    }


def claimed(run: RunConfig) -> dict[str, Any]:
    """The rights that a run needs: values that are not harmless, by key."""
    values = flat(run.model_dump(mode="json"))
    return {key: values[key] for key, allowed in harmless().items() if key in values and values[key] not in allowed}


def allow(run: RunConfig, typed: Sequence[str], file: Path) -> RunConfig:
    """The run of a run.yaml, with the rights given on the command line applied.

    Args:
        run: as run.yaml has it.
        typed: `KEY=VALUE`, of keys of `harmless`, whose value may differ from that of run.yaml, and of places of inputs,
            whose contents have hashes.
        file: the `run.yaml`, for messages.

    Raises:
        WrongInput: the run needs a right that was not given, or `typed` is invalid.
    """
    pairs = {key: text for key, _, text in (word.partition("=") for word in typed)}
    settable = (*harmless(), *PLACES)
    if others := [key for key in pairs if key not in settable]:
        raise WrongInput(
            [
                f"{key}: for a run.yaml only {', '.join(settable)} can be set on the command line; compose a new run"
                for key in others
            ]
        )
    missing = {key: value for key, value in claimed(run).items() if key not in pairs}
    if missing:
        raise WrongInput([claim(key, value, file) for key, value in missing.items()])
    values = run.model_dump(mode="json")
    for key, text in pairs.items():
        group, name = holder(values, key)
        if group is None:
            raise WrongInput([f"{key}: {file} does not set it; compose a new run"])
        group[name] = text if key in PLACES else _value(text)
    if NAME in pairs:
        values["speculator"]["speculators_config"]["verifier"]["name_or_path"] = pairs[NAME]  # follows it
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise WrongInput(complaints(error, values, lambda key: None)) from error


def elsewhere(error: Exception) -> str:
    """What to add to a message about a missing input: that its place can be given on the command line."""
    key = key_of(error)
    return f"; if it is elsewhere, add {key}=... to the command" if key in PLACES else ""


def claim(key: str, value: Any, file: Path) -> str:
    """The message about a right that a run.yaml needs."""
    allowed = " or ".join(_text(v) for v in harmless()[key])
    return (
        f"{key}={_text(value)} in {file}: a file cannot grant this; add {shlex.quote(f'{key}={_text(value)}')} to the "
        f"command to allow it, or {key}={allowed} to run without it"
    )


def command(folder: Path, run: RunConfig) -> str:
    """The shell command that resumes a run."""
    return shlex.join(["speculators", "run", str(folder), *as_typed(claimed(run))])


def as_typed(values: dict[str, Any]) -> list[str]:
    """Format values by key as overrides for `allow`."""
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(text: str) -> Any:
    try:
        return parse_value(text)
    except ValueError:
        return text
