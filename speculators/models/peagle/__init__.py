"""P-EAGLE: EAGLE-3's layers, trained to draft all tokens in one pass."""

from speculators.utils.lazy import lazy_names

_MODULES = {"PEagleSpeculator": f"{__name__}.model", "PEagleSpeculatorConfig": f"{__name__}.config"}

__all__ = list(_MODULES)

__getattr__ = lazy_names(__name__, _MODULES)
