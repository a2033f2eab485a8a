"""Published configs of drafts that read the states of several of the verifier's layers."""

from typing import Annotated

from pydantic import Field
from transformers import Qwen3Config

from speculators.config import LayerConfig, SpeculatorModelConfig, read_layer_config
from speculators.models.block_settings import BlockFields
from speculators.models.fused_states import FusedStatesFields


class StatesConfig(SpeculatorModelConfig):
    """What they share; `speculators_model_type` names the subclass."""

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


class FusedStatesConfig(StatesConfig, FusedStatesFields):
    """Decoder layers over the fused states and the tokens of a text."""


class BlockConfig(StatesConfig, BlockFields):
    """Decoder layers over a block of tokens."""
