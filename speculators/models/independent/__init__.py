"""Independent draft: a small language model of the verifier's vocabulary, which reads nothing but the text."""

from speculators.utils.lazy import lazy_names

_MODULES = {"IndependentSpeculator": f"{__name__}.model", "IndependentSpeculatorConfig": f"{__name__}.config"}

__all__ = list(_MODULES)

__getattr__ = lazy_names(__name__, _MODULES)
