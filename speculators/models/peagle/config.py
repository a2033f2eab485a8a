"""P-EAGLE's published config (arXiv:2602.01469)."""

from typing import Literal

from pydantic import Field

from speculators.config import SpeculatorModelConfig
from speculators.models.peagle.settings import PEagleFields
from speculators.models.states_config import FusedStatesConfig


@SpeculatorModelConfig.register("peagle")
class PEagleSpeculatorConfig(PEagleFields, FusedStatesConfig):
    """An EAGLE-3 draft that drafts all tokens in one pass; how many is in its proposal method."""

    speculators_model_type: Literal["peagle"] = "peagle"
    architectures: list[str] = Field(
        default_factory=lambda: ["PEagleSpeculator"], description="model classes that load the weights"
    )
