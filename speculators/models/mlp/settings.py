"""Settings of the MLP speculator (Wertheimer et al. 2024, arXiv:2404.19124). Torch-free."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from speculators.settings.algorithm import AlgorithmSettings
from speculators.verifier.facts import VerifierFacts


class MLPFields(BaseModel):
    """Fields that are both chosen and published, named as in IBM's and vLLM's MLPSpeculatorConfig."""

    n_predict: int = Field(default=3, ge=1, description="stages; stage i drafts the i-th token after the sampled one")
    inner_dim: int | None = Field(
        default=0, ge=0, description="width of the stages; 0 and null are the width of the verifier's state"
    )
    tie_weights: bool = Field(
        default=False, description="all stages share one embedding, norm and head, and all but the first one projection"
    )
    scale_input: bool = Field(default=False, description="normalise the verifier's state and divide it by sqrt(2)")

    @model_validator(mode="after")
    def check_tied(self) -> "MLPFields":
        if self.tie_weights and self.n_predict == 1:
            raise ValueError("tie_weights=true needs n_predict of at least 2: one stage has none to share weights with")
        return self


@AlgorithmSettings.register("mlp")
class MLPSettings(AlgorithmSettings, MLPFields):
    """The MLP speculator in training."""

    published_fields: ClassVar[type[BaseModel]] = MLPFields
    derived_keys: ClassVar[tuple[str, ...]] = ("vocab_size", "emb_dim", "top_k_tokens_per_head", "n_candidates")

    name: Literal["mlp"]

    @property
    def slots(self) -> int:
        """One slot a stage."""
        return self.n_predict

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The chosen fields, the verifier's sizes, and candidates that are a chain."""
        return self.model_dump(include=set(MLPFields.model_fields)) | {
            "inner_dim": self.inner_dim or facts.hidden_size,
            "emb_dim": facts.hidden_size,
            "vocab_size": facts.vocab_size,
            # How servers of this format form candidates; here the proposal method decides.
            "top_k_tokens_per_head": [1] * self.n_predict,
            "n_candidates": 1,
        }
