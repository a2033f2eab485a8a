"""The published config of an MTP layer (FastMTP, arXiv:2509.18362)."""

from typing import Annotated, Literal

from pydantic import Field
from transformers import Qwen2Config

from speculators.config import LayerConfig, SpeculatorModelConfig, read_layer_config
from speculators.models.mtp.settings import MTPFields


@SpeculatorModelConfig.register("mtp")
class MTPSpeculatorConfig(SpeculatorModelConfig, MTPFields):
    """One layer that reads the verifier's state and the next token's embedding, and then its own output."""

    speculators_model_type: Literal["mtp"] = "mtp"
    architectures: list[str] = Field(
        default_factory=lambda: ["MTPDraftModel"], description="model classes that load the weights"
    )
    transformer_layer_config: Annotated[LayerConfig, read_layer_config(Qwen2Config)] = Field(
        default_factory=Qwen2Config, description="the verifier's text model; the MTP layer is one more of its layers"
    )
