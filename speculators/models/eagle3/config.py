"""EAGLE-3's published config (Li et al. 2025, arXiv:2503.01840)."""

from typing import Annotated, Literal

from pydantic import Field
from transformers import Qwen3Config

from speculators.config import LayerConfig, SpeculatorModelConfig, read_layer_config
from speculators.models.eagle3.settings import Eagle3Fields


@SpeculatorModelConfig.register("eagle3")
class Eagle3SpeculatorConfig(SpeculatorModelConfig, Eagle3Fields):
    """A draft of decoder layers that reads several of the verifier's layers and predicts a reduced vocabulary."""

    speculators_model_type: Literal["eagle3"] = "eagle3"
    architectures: list[str] = Field(
        default_factory=lambda: ["Eagle3Speculator"], description="model classes that load the weights"
    )
    transformer_layer_config: Annotated[LayerConfig, read_layer_config(Qwen3Config)] = Field(
        default_factory=Qwen3Config, description="the draft's decoder layers; its vocab_size is the verifier's"
    )
    target_hidden_size: int | None = Field(
        default=None, description="width of the verifier's states where it is not the draft's"
    )

    @property
    def target_vocab_size(self) -> int:
        """Size of the verifier's vocabulary."""
        return self.transformer_layer_config.vocab_size
