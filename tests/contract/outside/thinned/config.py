"""The published config of a thinned draft."""

from typing import Literal

from pydantic import Field

from speculators.config import SpeculatorModelConfig
from thinned.settings import ThinnedFields


@SpeculatorModelConfig.register("thinned")
class ThinnedConfig(SpeculatorModelConfig, ThinnedFields):
    """Networks that each read the verifier's last state; nothing of how rows were sampled."""

    speculators_model_type: Literal["thinned"] = "thinned"
    architectures: list[str] = Field(default_factory=lambda: ["ThinnedModel"])
    hidden_size: int = Field(default=64, ge=1, description="size of the verifier's state")
    vocab_size: int = Field(default=128, ge=1, description="the verifier's vocabulary")
