"""EAGLE-3: decoder layers over several of the verifier's layers, trained on its own predictions."""

from speculators.lazy import lazy_names

__all__ = ["Eagle3SpeculatorConfig"]

__getattr__ = lazy_names(__name__, {"Eagle3SpeculatorConfig": f"{__name__}.config"})
