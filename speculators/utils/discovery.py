"""Finds the algorithms: the folders of `speculators/models`, and those that installed packages name. Torch-free."""

import importlib
import importlib.util
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files

MODELS = "speculators.models"


@cache  # reading what is installed takes 20 ms, and is asked for at every check
def packages() -> dict[str, str]:
    """Algorithm folders by name: those here, and installed packages' `speculators.models` entry points."""
    found = {m.name: f"{MODELS}.{m.name}" for m in pkgutil.iter_modules([str(files(MODELS))]) if m.ispkg}
    return found | {e.name: e.value for e in entry_points(group="speculators.models")}


def import_part(part: str, optional: bool = False) -> None:
    """Import one file of every algorithm's folder, so that what it registers is known.

    Args:
        part: `settings`, `export`, `config`, `model`, or an engine's such as `vllm_0_32_0`; `config` and `model` alone
            import torch.
        optional: leave out a folder that has no such file.
    """
    for package in packages().values():
        if not optional or importlib.util.find_spec(f"{package}.{part}") is not None:
            importlib.import_module(f"{package}.{part}")
