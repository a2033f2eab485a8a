"""One folder an algorithm; docs/add-an-algorithm.md says which files it has."""

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import Any


@cache  # reading what is installed takes 20 ms, and is asked for at every check
def packages() -> dict[str, str]:
    """Algorithm folders by name: those here, and installed packages' `speculators.models` entry points."""
    found = {m.name: f"{__name__}.{m.name}" for m in pkgutil.iter_modules(__path__) if m.ispkg}
    return found | {e.name: e.value for e in entry_points(group="speculators.models")}


def import_part(part: str) -> None:
    """Import one file of every algorithm's folder, so that what it registers is known.

    Args:
        part: `settings`, `export`, `config` or `model`; the first two are free of torch.
    """
    for package in packages().values():
        importlib.import_module(f"{package}.{part}")


def __getattr__(name: str) -> Any:
    # What an algorithm's folder names in __all__ is offered here as well. Only classes are: `config` is a file.
    if name[:1].isupper():
        for package in packages().values():
            folder = importlib.import_module(package)
            if name in vars(folder).get("__all__", ()):
                return getattr(folder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
