"""EAGLE-1: what a person chooses, and what of it is published. Torch-free."""

from pydantic import BaseModel, Field


class EagleFields(BaseModel):
    """Fields that are both chosen and published; the defaults serve reading a published config alone."""

    transformer_layer_architecture: str = Field(
        default="auto", description="class of the decoder layer; auto takes the one of transformer_layer_config"
    )
    layernorms: bool = Field(default=False, description="normalise the embedding and the verifier's state before fc")
    fusion_bias: bool = Field(default=False, description="fc has a bias")
