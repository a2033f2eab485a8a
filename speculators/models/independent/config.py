"""The published config of an independent draft."""

from typing import Annotated, Literal

from pydantic import Field
from transformers import LlamaConfig

from speculators.config import LayerConfig, SpeculatorModelConfig, read_layer_config
from speculators.models.independent.settings import IndependentFields


@SpeculatorModelConfig.register("independent")
class IndependentSpeculatorConfig(IndependentFields, SpeculatorModelConfig):
    """A small language model of the verifier's vocabulary (Leviathan et al. 2023, arXiv:2211.17192)."""

    speculators_model_type: Literal["independent"] = "independent"
    architectures: list[str] = Field(
        default_factory=lambda: ["IndependentSpeculator"], description="model classes that load the weights"
    )
    transformer_layer_config: Annotated[LayerConfig, read_layer_config(LlamaConfig)] = Field(
        default_factory=LlamaConfig, description="the whole language model"
    )
