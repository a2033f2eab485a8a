"""The published copy of a run.yaml: without the absolute paths of the machine that it was made on. Torch-free."""

import re
from collections.abc import Iterator
from typing import Any

from speculators.runfolder.rights import harmless
from speculators.utils.dotted import holder
from speculators.utils.yaml_lines import Lines, dump
from speculators.verifier.location import public_name

# The folders of an absolute path in a text, such as an override or the provenance of a value.
FOLDERS = re.compile(r"(^|[=:\[({,'\" ]|file://)(?:~|[A-Za-z]:)?[/\\](?:[^/\\'\",\]}]+[/\\])+")

# Settings that may be paths.
PLACES = ("path", "name", "name_or_path", "init_from")


def public(text: str) -> str:
    """The contents of a run.yaml with the last name alone of each absolute path, and without what is one person's own.

    That is what a run.yaml cannot grant itself, such as the cache's folder, a server of states, and the repository that the
    draft is pushed to. A verifier's folder becomes its Hub id where its config.json has one. `speculators run` takes the places
    on the command line, and compares what is there with the recorded hashes. A text without such paths stays as it is.
    """
    pin: Any = Lines(text).value
    before = dump(pin)
    for group, key in _places(pin.get("run", {})):
        group[key] = public_name(group[key])
    for key, allowed in harmless().items():
        group, name = holder(pin, f"run.{key}")
        if None in allowed and group is not None and group.get(name) is not None:
            group[name] = None
    for key in {"overrides", "searchpath", "sources"} & pin.keys():
        pin[key] = _without_folders(pin[key])
    return dump(pin) if dump(pin) != before else text


def _places(run: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The settings that are places, each as a dict and its key."""
    data = run.get("data", {})
    usage = run.get("speculator", {}).get("speculators_config", {})
    prompts = run.get("evaluation", {}).get("data") or {}
    inputs = (data, *data.get("sources", []), prompts, run.get("verifier", {}), usage.get("verifier", {}))
    for group in (*inputs, run.get("trainer", {}), run.get("algorithm", {})):
        yield from ((group, key) for key in PLACES if isinstance(group.get(key), str))


def _without_folders(value: Any) -> Any:
    if isinstance(value, str):
        return FOLDERS.sub(r"\1", value)
    if isinstance(value, dict):
        return {key: _without_folders(v) for key, v in value.items()}
    return [_without_folders(v) for v in value] if isinstance(value, list) else value
