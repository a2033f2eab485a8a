"""Finds algorithms and proposal methods: the folders here, and those that installed packages name. Torch-free."""

import importlib
import importlib.util
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files

# Each is a package of folders, and the group of entry points by which others add theirs.
MODELS, PROPOSALS = "speculators.models", "speculators.proposals"


@cache  # reading what is installed takes 20 ms, and is asked for at every check
def packages(group: str = MODELS) -> dict[str, str]:
    """Packages by name: the folders of `group`, and installed packages' entry points of that name."""
    found = {m.name: f"{group}.{m.name}" for m in pkgutil.iter_modules([str(files(group))]) if m.ispkg}
    return found | {e.name: e.value for e in entry_points(group=group)}


def import_part(part: str, group: str = MODELS, optional: bool = False) -> None:
    """Import one file of every algorithm's or proposal method's folder, so that what it registers is known.

    Args:
        part: of an algorithm `settings`, `export`, `config`, `model`, or an engine's such as `vllm_0_32_0`; `config` and
            `model` alone import torch. Of a proposal method `method`.
        group: `MODELS` or `PROPOSALS`.
        optional: leave out a folder that has no such file.
    """
    for package in packages(group).values():
        if not optional or importlib.util.find_spec(f"{package}.{part}") is not None:
            importlib.import_module(f"{package}.{part}")
