"""One folder an algorithm; docs/add-an-algorithm.md says which files it has."""

import importlib
from typing import Any

from speculators.utils.discovery import packages


def __getattr__(name: str) -> Any:
    # What an algorithm's folder names in __all__ is offered here as well. Only classes are: `config` is a file.
    if name[:1].isupper():
        for package in packages().values():
            folder = importlib.import_module(package)
            if name in vars(folder).get("__all__", ()):
                return getattr(folder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
