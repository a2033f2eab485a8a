"""DSpark: a block of tokens, each told the one before it, with a confidence."""

from speculators.utils.lazy import lazy_names

_MODULES = {"DSparkModel": f"{__name__}.model", "DSparkSpeculatorConfig": f"{__name__}.config"}

__all__ = list(_MODULES)

__getattr__ = lazy_names(__name__, _MODULES)
