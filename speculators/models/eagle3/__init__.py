"""EAGLE-3: decoder layers over several of the verifier's layers, trained on their own predictions."""

from speculators.utils.lazy import lazy_names

_MODULES = {"Eagle3Speculator": f"{__name__}.model", "Eagle3SpeculatorConfig": f"{__name__}.config"}

__all__ = list(_MODULES)

__getattr__ = lazy_names(__name__, _MODULES)
