"""EAGLE-3: what a person chooses, and what of it is published. Torch-free."""

from pydantic import BaseModel, Field, model_validator


class Eagle3Fields(BaseModel):
    """Fields that are both chosen and published; the defaults serve reading a published config alone."""

    draft_vocab_size: int = Field(
        default=32000, description="tokens that the draft can predict, the most frequent ones"
    )
    norm_before_residual: bool = Field(default=False, description="the first layer's residual is the normalised state")
    eagle_aux_hidden_state_layer_ids: list[int] | None = Field(
        default=None,
        description="verifier layers whose states the draft reads, ascending; null leaves it to the engine",
    )
    norm_before_fc: bool = Field(default=False, description="one RMSNorm over the concatenated states before fc")
    fc_norm: bool = Field(default=False, description="one RMSNorm for each of the states before they are concatenated")
    norm_output: bool = Field(default=False, description="the state fed to the next step is the normalised one")
    embed_requires_grad: bool = Field(default=False, description="the draft trains an embedding of its own")

    @model_validator(mode="after")
    def _check_norm_flags(self) -> "Eagle3Fields":
        if self.norm_before_fc and self.fc_norm:
            raise ValueError("norm_before_fc and fc_norm are mutually exclusive — enable one or the other, not both.")
        return self
