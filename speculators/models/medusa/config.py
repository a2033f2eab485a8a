"""The published config of a Medusa draft."""

from typing import Literal

from pydantic import Field

from speculators.config import SpeculatorModelConfig
from speculators.models.medusa.settings import MedusaFields


@SpeculatorModelConfig.register("medusa")
class MedusaSpeculatorConfig(SpeculatorModelConfig, MedusaFields):
    """Heads that each read the verifier's last state (Cai et al. 2024, arXiv:2401.10774)."""

    speculators_model_type: Literal["medusa"] = "medusa"
    architectures: list[str] = Field(default_factory=lambda: ["MedusaModel"])
    hidden_size: int = Field(default=4096, ge=1, description="size of the verifier's state")
    vocab_size: int = Field(default=32000, ge=1, description="the verifier's vocabulary")
