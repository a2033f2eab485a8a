"""Compares the values of a run.yaml with those that its overrides compose to now."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from speculators.composition.by_verifier import verifier_known
from speculators.composition.compose import composed
from speculators.composition.provenance import Blame
from speculators.composition.validate import without_hydra
from speculators.utils.messages import WrongInput

if TYPE_CHECKING:
    from speculators.runfolder.run_yaml import Pin


def moved(pin: "Pin") -> list[str]:
    """A line for each value that the overrides of a run.yaml would now compose differently; the run keeps its values.

    Composing serves only this comparison: if it fails, a line reports it.
    """
    from speculators.settings.run_config import flat

    if pin.overrides is None:
        return ["the overrides were not recorded: defaults that moved since are not looked for"]
    gone = [p for p in pin.searchpath if p.startswith("file://") and not Path(p.removeprefix("file://")).is_dir()]
    try:
        if gone:
            raise WrongInput([f"{' and '.join(gone)} is not there"])
        searched = [f"hydra.searchpath={json.dumps(pin.searchpath)}"] if pin.searchpath else []
        with composed([*pin.overrides, *searched]) as config:
            own = without_hydra(config)
            with verifier_known(own):
                tree: Any = OmegaConf.to_container(own, resolve=True)
            return _moved(flat(pin.run.model_dump(mode="json")), flat(tree), Blame(config.hydra))
    except WrongInput as error:
        return [f"defaults that moved since cannot be looked for: {error.messages[0]}"]


def _moved(pinned: dict[str, Any], now: dict[str, Any], blame: Blame) -> list[str]:
    lines = []
    for key in dict.fromkeys([*pinned, *now]):
        source = blame.source(key)
        # A derived value changes with the key it is derived from, which has its own line.
        if pinned.get(key, ...) == now.get(key, ...) or source is not None and source.via:
            continue
        was, today = (_shown(values, key) for values in (pinned, now))
        lines.append(f"{key}: pinned {was}, now {today}{f' ({source})' if source else ''}")
    return lines


def _shown(values: dict[str, Any], key: str) -> str:
    value = values.get(key, "no setting")
    return value if isinstance(value, str) else json.dumps(value)
