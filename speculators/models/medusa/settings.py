"""Settings of Medusa (Cai et al. 2024, arXiv:2401.10774). Torch-free."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from speculators.settings.algorithm import AlgorithmSettings
from speculators.verifier.facts import VerifierFacts


class MedusaFields(BaseModel):
    """Fields that are both chosen and published, named as in vLLM's native Medusa config."""

    num_heads: int = Field(default=5, ge=1, description="heads; head h drafts the h-th token after the sampled one")
    num_hidden_layers: int = Field(default=1, ge=1, description="residual blocks of a head")
    medusa_fc_bias: bool = Field(default=False, description="the blocks' linear layers have a bias")
    original_lm_head: bool = Field(
        default=False, description="all heads share one trained vocabulary head, instead of one each"
    )
    truncated_vocab_size: int | None = Field(
        default=None, ge=1, description="rows of the shared vocabulary head; null is the whole vocabulary"
    )

    @model_validator(mode="after")
    def check_truncated(self) -> "MedusaFields":
        # vLLM maps ids of a truncated head only where that head is shared.
        if self.truncated_vocab_size is not None and not self.original_lm_head:
            raise ValueError("truncated_vocab_size needs original_lm_head=true: only a shared head can be truncated")
        return self


@AlgorithmSettings.register("medusa")
class MedusaSettings(AlgorithmSettings, MedusaFields):
    """Medusa-1: heads on a frozen verifier."""

    engines: ClassVar[tuple[str, ...]] = ("vllm",)
    published_fields: ClassVar[type[BaseModel]] = MedusaFields
    derived_keys: ClassVar[tuple[str, ...]] = ("hidden_size", "vocab_size")

    name: Literal["medusa"]

    @property
    def slots(self) -> int:
        """One slot a head."""
        return self.num_heads

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The chosen fields and the sizes of the verifier's state and vocabulary."""
        chosen = self.model_dump(include=set(MedusaFields.model_fields))
        return chosen | {"hidden_size": facts.hidden_size, "vocab_size": facts.vocab_size}
