"""The published config of a sketch."""

from typing import Literal

from pydantic import Field

from sketch.settings import SketchFields
from speculators.config import SpeculatorModelConfig


@SpeculatorModelConfig.register("sketch")
class SketchConfig(SpeculatorModelConfig, SketchFields):
    """Networks that each read the verifier's last state."""

    speculators_model_type: Literal["sketch"] = "sketch"
    architectures: list[str] = Field(default_factory=lambda: ["SketchModel"])
    hidden_size: int = Field(default=64, ge=1, description="size of the verifier's state")
    vocab_size: int = Field(default=128, ge=1, description="the verifier's vocabulary")
