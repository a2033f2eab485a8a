"""Engines, one module a version. Torch-free."""

import importlib
import pkgutil

from speculators.export.engine import Engine


def engine_version(name: str, version: str) -> Engine:
    """One version of an engine.

    Args:
        name: as in `AlgorithmSettings.engines`.
        version: as in `export.engine_version`.

    Raises:
        ValueError: there is none; the message names those that there are.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    known = Engine.registry or {}
    if (key := f"{name} {version}") not in known:
        raise ValueError(
            f"export.engine_version={version}: there are no rules for {key}; choose one of {', '.join(sorted(known))}"
        )
    return known[key]()
