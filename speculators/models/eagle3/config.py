"""EAGLE-3's published config (Li et al. 2025, arXiv:2503.01840)."""

from typing import Literal

from pydantic import Field

from speculators.config import SpeculatorModelConfig
from speculators.models.states_config import FusedStatesConfig


@SpeculatorModelConfig.register("eagle3")
class Eagle3SpeculatorConfig(FusedStatesConfig):
    """A draft of decoder layers that reads several of the verifier's layers and predicts a reduced vocabulary."""

    speculators_model_type: Literal["eagle3"] = "eagle3"
    architectures: list[str] = Field(
        default_factory=lambda: ["Eagle3Speculator"], description="model classes that load the weights"
    )
