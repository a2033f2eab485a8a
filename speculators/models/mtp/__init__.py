"""MTP: the verifier's own multi-token prediction layer, trained further over several steps."""

from speculators.utils.lazy import lazy_names

_MODULES = {"MTPDraftModel": f"{__name__}.model", "MTPSpeculatorConfig": f"{__name__}.config"}

__all__ = list(_MODULES)

__getattr__ = lazy_names(__name__, _MODULES)
