"""DFlash: a block of tokens filled in at once."""

from speculators.utils.lazy import lazy_names

_MODULES = {"DFlashModel": f"{__name__}.model", "DFlashSpeculatorConfig": f"{__name__}.config"}

__all__ = list(_MODULES)

__getattr__ = lazy_names(__name__, _MODULES)
