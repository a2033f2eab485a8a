"""The drafts that `vllm_verdicts.py` asks vLLM about: one module for each algorithm, which holds `cases`.

A base is a draft as this project publishes it; each further case changes one base in one place.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LAYER, USAGE, IDS = "transformer_layer_config", "speculators_config", "eagle_aux_hidden_state_layer_ids"
PROPOSALS, VERIFIER = f"{USAGE}.proposal_methods", f"{USAGE}.verifier"
# The config of the small MiMo that train_tiny_mimo.py makes.
MIMO = Path(__file__).resolve().parents[2] / "tests" / "golden" / "mimo"


class Cases:
    """The cases of one algorithm, in the order in which vLLM is asked.

    Args:
        bases: overrides of a composed run by the base's name, which begins with the algorithm's, so that names are unique.
        runner: whether vLLM's CPU build has a model runner for these drafts; else its parser, loader and modules are asked.

    Attributes:
        listed: a dict for each case: `name`, `base` and its changes `set`, `delete` and `tensors`.
        silent: cases that vLLM loads without an error and then computes otherwise than the draft was trained, each with
            the reason.
        stricter: cases that vLLM serves and this project refuses, each with the reason.
    """

    def __init__(self, bases: Mapping[str, Sequence[str]], runner: bool = True) -> None:
        self.bases, self.runner = dict(bases), runner
        self.listed: list[dict[str, Any]] = [{"name": name, "base": name} for name in bases]
        self.silent: dict[str, str] = {}
        self.stricter: dict[str, str] = {}

    def put(self, base: str, key: str, *values: Any) -> None:
        """Add a case for each value at a dotted path; `vllm/...` is in the native config alone."""
        self.listed.extend({"name": f"{base}: {key}={v!r}", "base": base, "set": {key: v}} for v in values)

    def drop(self, base: str, *keys: str) -> None:
        """Add a case for each key that is missing."""
        self.listed.extend({"name": f"{base}: no {key}", "base": base, "delete": [key]} for key in keys)

    def tensors(self, base: str, what: str, values: Mapping[str, Any]) -> None:
        """Add a case with other tensors: dtype and shape, or None for one that is missing."""
        self.listed.append({"name": f"{base}: {what}", "base": base, "tensors": dict(values)})

    def both(self, base: str, what: str, values: Mapping[str, Any], gone: Sequence[str] = ()) -> None:
        """Add a case with several changes."""
        self.listed.append({"name": f"{base}: {what}", "base": base, "set": dict(values), "delete": list(gone)})


def discovered() -> dict[str, Cases]:
    """The cases of every algorithm that has a module in this folder, by its name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").cases for name in names}
