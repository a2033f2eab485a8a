"""Medusa: decoder layers over several of the verifier's layers, trained on their own predictions."""

from speculators.lazy import lazy_names

_MODULES = {"MedusaSpeculator": f"{__name__}.model", "MedusaSpeculatorConfig": f"{__name__}.config"}

__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]  the names are loaded when they are asked for

__getattr__ = lazy_names(__name__, _MODULES)
