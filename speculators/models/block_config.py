"""What published configs of drafts of blocks share."""

from typing import Annotated

from pydantic import Field
from transformers import Qwen3Config

from speculators.config import LayerConfig, SpeculatorModelConfig, read_layer_config
from speculators.models.block_settings import BlockFields


class BlockConfig(SpeculatorModelConfig, BlockFields):
    """Decoder layers over a block; `speculators_model_type` names the subclass."""

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
