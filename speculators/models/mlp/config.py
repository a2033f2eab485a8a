"""The published config of an MLP speculator."""

from typing import Literal

from pydantic import Field, model_validator

from speculators.config import SpeculatorModelConfig
from speculators.models.mlp.settings import MLPFields


@SpeculatorModelConfig.register("mlp")
class MLPSpeculatorConfig(SpeculatorModelConfig, MLPFields):
    """Stages that each mix the state before with a token's embedding (Wertheimer et al. 2024, arXiv:2404.19124)."""

    speculators_model_type: Literal["mlp"] = "mlp"
    architectures: list[str] = Field(default_factory=lambda: ["MLPSpeculatorPreTrainedModel"])
    vocab_size: int = Field(default=32000, ge=1, description="the verifier's vocabulary")
    emb_dim: int = Field(default=4096, ge=1, description="size of the verifier's state")
    top_k_tokens_per_head: list[int] = Field(
        default=[5, 4, 3], description="candidates of each stage, in servers that form candidates by themselves"
    )
    n_candidates: int = Field(default=5, ge=1, description="candidates that such servers verify")

    @model_validator(mode="after")
    def check_candidates(self) -> "MLPSpeculatorConfig":
        if len(self.top_k_tokens_per_head) != self.n_predict:
            raise ValueError(
                f"top_k_tokens_per_head={self.top_k_tokens_per_head} must have n_predict={self.n_predict} entries"
            )
        return self
