"""EAGLE-1: one decoder layer over the verifier's last state and the next token's embedding."""

from speculators.lazy import lazy_names

__all__ = ["EagleSpeculatorConfig"]

__getattr__ = lazy_names(__name__, {"EagleSpeculatorConfig": f"{__name__}.config"})
