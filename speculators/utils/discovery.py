"""Finds algorithms and proposal methods: subpackages, and entry points of installed packages. Torch-free."""

import importlib
import importlib.util
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files

# Each is both a package whose subpackages are found, and the entry-point group by which other packages add theirs.
MODELS, PROPOSALS = "speculators.models", "speculators.proposals"


@cache  # reading the metadata of installed packages takes 20 ms, and every check needs it
def packages(group: str = MODELS) -> dict[str, str]:
    """Packages by name: the subpackages of `group`, and the entry points of the group `group`."""
    found = {m.name: f"{group}.{m.name}" for m in pkgutil.iter_modules([str(files(group))]) if m.ispkg}
    return found | {e.name: e.value for e in entry_points(group=group)}


def import_part(part: str, group: str = MODELS, optional: bool = False) -> None:
    """Import one module of every algorithm or proposal method, so that its registrations take effect.

    Args:
        part: for an algorithm `settings`, `export`, `config`, `model`, or an engine's such as `vllm_0_32_0`; only
            `config` and `model` import torch. For a proposal method `method`.
        group: `MODELS` or `PROPOSALS`.
        optional: skip packages that have no such module.
    """
    for package in packages(group).values():
        if not optional or importlib.util.find_spec(f"{package}.{part}") is not None:
            importlib.import_module(f"{package}.{part}")
