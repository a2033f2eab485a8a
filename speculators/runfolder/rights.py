"""What a `run.yaml` cannot allow by itself, since anybody may have written it: a person types it. Torch-free."""

import json
import shlex
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from speculators.settings.run_config import RunConfig, flat
from speculators.utils.messages import WrongInput, complaints
from speculators.utils.yaml_lines import Lines


@cache
def harmless() -> dict[str, tuple[Any, ...]]:
    """Settings with which a run can run foreign code, remove or fill what lies outside its folder, send what it measures
    to others, or take a device of its choice; and the values of each that do none of it."""
    defaults: Any = Lines((files("speculators.conf") / "train.yaml").read_text(encoding="utf-8")).value()
    return {
        "verifier.trust_remote_code": (False,),
        "cache.dir": (defaults["cache"]["dir"],),
        "cache.limit_gb": (defaults["cache"]["limit_gb"],),
        "tracker.name": ("none", "tensorboard"),
        "device": ("auto", "cpu"),
    }


def claimed(run: RunConfig) -> dict[str, Any]:
    """The rights that a run needs: the values that are not harmless, by key."""
    values = flat(run.model_dump(mode="json"))
    return {key: values[key] for key, allowed in harmless().items() if values[key] not in allowed}


def allow(run: RunConfig, typed: Sequence[str], file: Path) -> RunConfig:
    """A run as a file pins it, with the rights that a person typed.

    Args:
        run: as it is pinned.
        typed: `KEY=VALUE`, of the keys of `harmless` alone; a value may be another than the pinned one.
        file: the `run.yaml`, for messages.

    Raises:
        WrongInput: the run needs a right that was not typed, or what was typed is wrong.
    """
    pairs = {key: text for key, _, text in (word.partition("=") for word in typed)}
    if others := [key for key in pairs if key not in harmless()]:
        raise WrongInput(
            [f"{key}: of a run.yaml only {', '.join(harmless())} can be set; compose a new run" for key in others]
        )
    missing = {key: value for key, value in claimed(run).items() if key not in pairs}
    if missing:
        raise WrongInput([claim(key, value, file) for key, value in missing.items()])
    values = run.model_dump(mode="json")
    for key, text in pairs.items():
        group, _, name = key.rpartition(".")
        (values[group] if group else values)[name] = _value(text)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise WrongInput(complaints(error, values, lambda key: None)) from error


def claim(key: str, value: Any, file: Path) -> str:
    """The message about a right that a file claims."""
    allowed = " or ".join(_text(v) for v in harmless()[key])
    return (
        f"{key}={_text(value)} in {file}: a file cannot allow this; add {shlex.quote(f'{key}={_text(value)}')} to the "
        f"command to allow it, or {key}={allowed}"
    )


def command(folder: Path, run: RunConfig) -> str:
    """The command that goes on with a run, as a person types it."""
    return shlex.join(["speculators", "run", str(folder), *as_typed(claimed(run))])


def as_typed(values: dict[str, Any]) -> list[str]:
    """Values by key as overrides that `allow` reads."""
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
