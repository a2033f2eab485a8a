"""EAGLE-1's published config (Li et al. 2024, arXiv:2401.15077)."""

from typing import Annotated, Literal

from pydantic import Field
from transformers import LlamaConfig

from speculators.config import LayerConfig, SpeculatorModelConfig, read_layer_config
from speculators.models.eagle.settings import EagleFields


@SpeculatorModelConfig.register("eagle")
class EagleSpeculatorConfig(SpeculatorModelConfig, EagleFields):
    """A draft of decoder layers that reads the verifier's last state and the next token's embedding."""

    speculators_model_type: Literal["eagle"] = "eagle"
    architectures: list[str] = Field(
        default_factory=lambda: ["EagleSpeculator"], description="model classes that load the weights"
    )
    transformer_layer_config: Annotated[LayerConfig, read_layer_config(LlamaConfig)] = Field(
        default_factory=LlamaConfig, description="the draft's decoder layers"
    )
