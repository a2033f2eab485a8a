"""Rewrites Hydra's and OmegaConf's errors as one message, with suggestions."""

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from speculators.composition.provenance import NAME, folder
from speculators.utils.discovery import CONF
from speculators.utils.dotted import find
from speculators.utils.messages import did_you_mean, no_such
from speculators.utils.untrusted import MOST_DIGITS, shortened

# Limits on an override: Hydra's parser calls itself some 20 times for each level of brackets.
MOST_LENGTH, MOST_BRACKETS = 2**16, 20
LONG_NUMBER = re.compile(rf"(?:^|[=:,\[({{ ])[+-]?([0-9_]{{{MOST_DIGITS + 1},}})(?=$|[:,\])}} ])")
LONGEST_NAME = 200
NO_KEY = re.compile(r"[+~]*([@=]|$)")

# What other trainers have a setting for, and this one has not.
ELSEWHERE = {
    "resume": "`speculators run FOLDER` resumes a run, and a sweep is resumed by repeating its command",
    "output": "hydra.run.dir=FOLDER sets the folder of a run, hydra.sweep.dir=FOLDER that of a sweep",
}
ELSEWHERE |= {"resume_from": ELSEWHERE["resume"], "resume_from_checkpoint": ELSEWHERE["resume"]}
ELSEWHERE |= {"output_dir": ELSEWHERE["output"], "out": ELSEWHERE["output"]}
# Groups of Hydra's own whose other options are in packages of the extra `sweeps`.
PLUGINS = ("hydra/sweeper", "hydra/launcher")


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """Rewrite an error of Hydra or OmegaConf as one message that suggests the nearest valid name.

    Args:
        error: raised by composing.
        overrides: of that composition; may contain a --config-dir.
    """
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    searched = _searched(overrides)
    text = str(error.__cause__ or error) if isinstance(error.__cause__, OmegaConfBaseException) else str(error)
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, option = match[1].rpartition("/")
        with _loader() as loader:
            options = loader.get_group_options(group, config_name=NAME, overrides=_searchpath(searched))
        more = "; `pip install 'speculators-hydra[sweeps]'` adds more" if group in PLUGINS else ""
        return f"{group}={option}: {no_such('option', option, options)}{more}"
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        key, _, value = match[1].partition("=")
        return (
            f"{match[1]}: these are several values; add -m to run a trial for each, or write a list: '{key}=[{value}]'"
        )
    if match := re.search(r"(?:Could not override|Key) '([^']+)'", str(error)) or re.search(r"full_key: (\S+)", text):
        key = match[1]
        if key in ELSEWHERE:
            return f"{key} is not a setting; {ELSEWHERE[key]}"
        with _loader() as loader:
            options = _options_with(key, loader, searched)
            keys = _keys(loader, overrides, searched)
        # A key that another option of the group has is not a misspelling.
        return f"{key} is not a setting{f' of the chosen option; it is one of {options}' if options else did_you_mean(key, keys)}"
    if text.startswith("Config group override must be"):
        return f"a group is set to the name of one of its options; recipe and search may also be null: {' '.join(overrides)}"
    return " ".join(text.split())


def beyond_hydra(overrides: Sequence[str]) -> list[str]:
    """A message for each override for which Hydra would need too much memory or stack, or has no message of its own.

    Args:
        overrides: as typed.
    """
    found = []
    for override in overrides:
        shown, depth, deepest = shortened(override), 0, 0
        for character in override:
            depth += (character in "([{") - (character in ")]}")
            deepest = max(deepest, depth)
        if len(override) > MOST_LENGTH:
            found.append(f"{shown}: it is longer than {MOST_LENGTH} characters")
        elif deepest > MOST_BRACKETS:
            found.append(f"{shown}: its brackets are nested deeper than {MOST_BRACKETS} levels")
        elif match := LONG_NUMBER.search(override):
            found.append(f"{shown}: it has a number of {len(match[1])} digits")
        elif NO_KEY.match(override):
            found.append(f"{shown} is not an override; write it as key=value")
        elif _names_no_options(override):
            found.append(f"{shown}: a group is set to the name of one of its options, or to a list of names")
    return found


def _names_no_options(override: str) -> bool:
    """Whether a group is set to a list whose items are not all texts, or to more than the name of a file can be."""
    group, _, text = override.lstrip("+").partition("=")
    if not group.isidentifier() or not (files(CONF) / group).is_dir():
        return False
    if not text.startswith("["):
        return len(text) > LONGEST_NAME
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:
        return False  # composing reports it
    return isinstance(value, list) and not all(isinstance(item, str) for item in value)


def _unreadable(override: str) -> str:
    """The message for an override that Hydra's grammar cannot parse."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override} is not an override; write it as key=value"
    brackets = "close its brackets, or " if any(bracket in value for bracket in "([{") else ""
    return f"{override}: the value cannot be read; {brackets}quote it: '{key}=\"{value}\"'"


def _searched(overrides: Sequence[str]) -> list[str]:
    """Search-path entries given on the command line: hydra.searchpath and --config-dir."""
    typed = [o for o in overrides if o.startswith("hydra.searchpath=")]
    found = [str(path) for o in OverridesParser.create().parse_overrides(typed) for path in cast(list, o.value())]
    for flag, following in zip(overrides, [*overrides[1:], ""], strict=True):
        name, _, value = flag.partition("=")
        if name in ("--config-dir", "-cd"):
            found.append(f"file://{Path(value or following).absolute()}")
    return found


def _searchpath(searched: Sequence[str]) -> list[str]:
    return [f"hydra.searchpath={json.dumps(searched)}"]


def _options_with(key: str, loader: Any, searched: Sequence[str]) -> str:
    """Options of a key's group that define the key, as `group=option`."""
    group, *path = key.split(".")
    places = [(s.scheme(), s.path) for s in loader.get_sources()] + [tuple(s.split("://", 1)) for s in searched]
    roots = [root for scheme, where in places if (root := folder(scheme, where)) is not None]
    found = []
    for option in loader.get_group_options(group, config_name=NAME, overrides=_searchpath(searched)):
        file = next((f for root in roots if (f := root / group / f"{option}.yaml").is_file()), None)
        node: Any = yaml.safe_load(file.read_text(encoding="utf-8")) if file else None
        if path and find(node, ".".join(path), ...) is not ...:
            found.append(f"{group}={option}")
    return " or ".join(found)


def _keys(loader: Any, overrides: Sequence[str], searched: Sequence[str]) -> list[str]:
    """All groups, and all keys of the default run with the chosen groups."""
    groups = loader.list_groups("")
    chosen = [o for o in overrides if o.partition("=")[0] in groups]
    try:
        config = loader.load_configuration(NAME, [*_searchpath(searched), *chosen], RunMode.RUN)
    except HydraException:
        config = loader.load_configuration(NAME, [], RunMode.RUN)
    keys: list[str] = list(groups)

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                keys.append(f"{prefix}{name}")
                walk(value, f"{prefix}{name}.")

    tree: Any = OmegaConf.to_container(config, resolve=False)
    tree.pop("hydra", None)
    walk(tree, "")
    return keys


class _loader:
    """A config loader of a newly initialised Hydra: after an error the current one may have no loader."""

    def __enter__(self) -> Any:
        self.running = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        self.context = hydra.initialize_config_module(CONF, version_base="1.3")
        self.context.__enter__()
        return GlobalHydra.instance().config_loader()

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        GlobalHydra.instance().hydra = self.running
