"""EAGLE-1: decoder layers over the verifier's last state and the next token's embedding."""

from speculators.utils.lazy import lazy_names

_MODULES = {"EagleSpeculator": f"{__name__}.model", "EagleSpeculatorConfig": f"{__name__}.config"}

__all__ = list(_MODULES)

__getattr__ = lazy_names(__name__, _MODULES)
