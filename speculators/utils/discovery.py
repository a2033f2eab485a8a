"""Finds algorithms and proposal methods: subpackages, and entry points of installed packages. Torch-free."""

import importlib
import importlib.util
import pkgutil
import re
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files

# Each is both a package whose subpackages are found, and the entry-point group by which other packages add theirs.
MODELS, PROPOSALS = "speculators.models", "speculators.proposals"
# Entry points of this group name packages with options of groups.
CONF = "speculators.conf"


@cache  # reading the metadata of installed packages takes 20 ms, and every check needs it
def packages(group: str = MODELS) -> dict[str, str]:
    """Packages by name: the subpackages of `group`, and the entry points of the group `group`."""
    found = {m.name: f"{group}.{m.name}" for m in pkgutil.iter_modules([str(files(group))]) if m.ispkg}
    return found | {e.name: e.value for e in entry_points(group=group)}


@cache
def is_known(package: str) -> bool:
    """Whether a package may be imported for its files: it is part of this one, or of a distribution that adds to it.

    Args:
        package: a dotted name, which may come from an untrusted file; importing it would run its code.
    """
    added = (entry.value for group in (MODELS, PROPOSALS, CONF) for entry in entry_points(group=group))
    return _top(package) in {"speculators", *map(_top, added)}


def _top(name: str) -> str:
    return re.split("[.:]", name, maxsplit=1)[0].strip()


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
