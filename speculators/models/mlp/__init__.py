"""MLP speculator: a chain of small MLPs over the verifier's last state and the tokens drafted before."""

from speculators.utils.lazy import lazy_names

_MODULES = {"MLPSpeculator": f"{__name__}.model", "MLPSpeculatorConfig": f"{__name__}.config"}

__all__ = list(_MODULES)

__getattr__ = lazy_names(__name__, _MODULES)
