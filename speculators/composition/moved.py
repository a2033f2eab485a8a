"""Compares the values of a run.yaml with those that its overrides compose to now."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from speculators.composition.by_verifier import verifier_known
from speculators.composition.compose import composed, inert
from speculators.composition.provenance import Blame
from speculators.composition.validate import COMPOSING, without_hydra
from speculators.utils.discovery import is_known
from speculators.utils.messages import WrongInput

if TYPE_CHECKING:
    from speculators.runfolder.run_yaml import Pin

# The beginning of OmegaConf's own resolvers, of which some read the environment.
READS = "${oc."


def moved(pin: "Pin") -> list[str]:
    """A line for each value that the overrides of a run.yaml would now compose differently; the run keeps its values.

    Composing serves only this comparison: if it fails, a line reports it. The overrides and the search path may be
    untrusted: no unknown package is imported for its options, and no variable of the environment is read.
    """
    from speculators.utils.dotted import flat

    if pin.overrides is None:
        return ["run.yaml does not record its overrides, so defaults that changed since cannot be reported"]
    try:
        _check_harmless(pin.overrides, pin.searchpath)
        searched = [f"hydra.searchpath={json.dumps(pin.searchpath)}"] if pin.searchpath else []
        with composed([*pin.overrides, *searched]) as config:
            unread = _unread(OmegaConf.to_container(without_hydra(config), resolve=False))
            own = cast(DictConfig, OmegaConf.create(unread))
            with verifier_known(own):
                tree: Any = OmegaConf.to_container(own, resolve=True)
            return _moved(flat(pin.run.model_dump(mode="json")), flat(tree), Blame(config.hydra))
    except (WrongInput, *COMPOSING) as error:
        return [f"defaults that changed since cannot be reported: {' '.join(str(error).split())}"]


def _check_harmless(overrides: list[str], searchpath: list[str]) -> None:
    """Check that composing imports no unknown package, and names no group's option after a variable; else WrongInput."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key.split(".")[0].split("/")[0] == "hydra" or ("." not in key and READS in override):
            raise WrongInput([f"{override} is not composed again, since run.yaml may be untrusted"])
    for place in searchpath:
        scheme, _, where = place.partition("://")
        if not (is_known(where) if scheme == "pkg" else scheme != "file" or Path(where).is_dir()):
            raise WrongInput([f"{place} does not exist"])


def _unread(value: Any) -> Any:
    """A config with the texts that read the environment kept as they stand."""
    if isinstance(value, str):
        return inert(value) if READS in value else value
    if isinstance(value, dict):
        return {key: _unread(v) for key, v in value.items()}
    return [_unread(v) for v in value] if isinstance(value, list) else value


def _moved(pinned: dict[str, Any], now: dict[str, Any], blame: Blame) -> list[str]:
    lines = []
    for key in dict.fromkeys([*pinned, *now]):
        source = blame.source(key)
        # A derived value changes with the key it is derived from, which has its own line.
        if pinned.get(key, ...) == now.get(key, ...) or source is not None and source.via:
            continue
        if READS in str(now.get(key)):
            continue  # not known
        was, today = (_shown(values, key) for values in (pinned, now))
        lines.append(f"{key}: run.yaml has {was}, the default is now {today}{f' ({source})' if source else ''}")
    return lines


def _shown(values: dict[str, Any], key: str) -> str:
    value = values.get(key, "no setting")
    return value if isinstance(value, str) else json.dumps(value)
