"""The published config of a blocks draft."""

from typing import Literal

from pydantic import Field

from blocks.settings import BlocksFields
from speculators.config import SpeculatorModelConfig


@SpeculatorModelConfig.register("blocks")
class BlocksConfig(SpeculatorModelConfig, BlocksFields):
    """A network for all tokens of a block, the Markov term and the confidence."""

    speculators_model_type: Literal["blocks"] = "blocks"
    architectures: list[str] = Field(default_factory=lambda: ["BlocksModel"])
    hidden_size: int = Field(default=64, ge=1, description="size of the verifier's state")
    vocab_size: int = Field(default=128, ge=1, description="the verifier's vocabulary")
