"""Algorithms, one folder each; docs/add-an-algorithm.md lists the files of a folder."""

import importlib
from typing import Any

from speculators.utils.discovery import packages


def __getattr__(name: str) -> Any:
    # Re-exports the classes in the __all__ of each algorithm's folder. Only classes: `config` is a module.
    if name[:1].isupper():
        for package in packages().values():
            folder = importlib.import_module(package)
            if name in vars(folder).get("__all__", ()):
                return getattr(folder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
