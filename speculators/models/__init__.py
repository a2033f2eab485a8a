"""One folder an algorithm, always the same files: settings, config, model, loss, draft, export."""

import importlib
import pkgutil
from importlib.metadata import entry_points


def packages() -> dict[str, str]:
    """Algorithm folders by name: those here, and those that installed packages name as `speculators.models` entry points."""
    found = {m.name: f"{__name__}.{m.name}" for m in pkgutil.iter_modules(__path__) if m.ispkg}
    return found | {e.name: e.value for e in entry_points(group="speculators.models")}


def import_part(part: str) -> None:
    """Import one file of every algorithm's folder, so that what it registers is known.

    Args:
        part: `settings`, `config` or `model`. Only `settings` is free of torch.
    """
    for package in packages().values():
        importlib.import_module(f"{package}.{part}")
