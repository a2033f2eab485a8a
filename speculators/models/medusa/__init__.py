"""Medusa: parallel heads on the verifier's last state."""

from speculators.utils.lazy import lazy_names

_MODULES = {"MedusaModel": f"{__name__}.model", "MedusaSpeculatorConfig": f"{__name__}.config"}

__all__ = list(_MODULES)

__getattr__ = lazy_names(__name__, _MODULES)
