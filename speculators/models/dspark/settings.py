"""Settings of DSpark (arXiv:2607.05147), and the fields of them that are published. Torch-free."""

from typing import ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from speculators.models.block_settings import BlockFields, BlockSettings
from speculators.settings.algorithm import AlgorithmSettings, LossWeights


class DSparkFields(BlockFields):
    """Fields that are both chosen and published; the defaults serve reading a published config alone."""

    sample_from_anchor: bool = Field(
        default=True, description="the first input predicts too, each the token after it; else a mask predicts its own"
    )
    markov_rank: int = Field(
        default=256, description="rank of the term that the token before adds to the logits; 0 is no such term"
    )
    markov_head_type: Literal["vanilla", "gated", "rnn"] = Field(
        default="vanilla", description="what the term depends on: vanilla on the token before alone"
    )
    enable_confidence_head: bool = Field(
        default=True, description="a head predicts the chance that each token is accepted"
    )
    confidence_head_with_markov: bool = Field(
        default=True, description="the confidence head reads the token before as well"
    )
    # Not of upstream's format, whose readers pass over it.
    confidence_threshold: float = Field(
        default=0.0, ge=0, lt=1, description="a draft ends where a token's foreseen acceptance is lower; 0 never"
    )


class DSparkLoss(LossWeights):
    """The divergences, and the confidence head's loss."""

    confidence: float = Field(ge=0, description="binary cross entropy of the confidence with each row's acceptance")


@AlgorithmSettings.register("dspark")
class DSparkSettings(BlockSettings, DSparkFields):
    """Blocks after sampled anchors, with a Markov head and a confidence head."""

    published_fields: ClassVar[type[BaseModel]] = DSparkFields

    name: Literal["dspark"]
    loss: DSparkLoss  # type: ignore[assignment] # one weight more
    markov_rank: int = Field(
        ge=0, description="rank of the term that the token before adds to the logits; 0 is no such term"
    )
    markov_head_type: Literal["vanilla"] = Field(  # type: ignore[assignment] # narrower than published
        description="what the term depends on: vanilla on the token before alone, the only one that vLLM has"
    )

    @model_validator(mode="after")
    def check_heads(self) -> "DSparkSettings":
        """The confidence head reads what the Markov head has, and is trained if there is one."""
        if self.enable_confidence_head and self.confidence_head_with_markov and not self.markov_rank:
            raise ValueError("confidence_head_with_markov=true needs markov_rank above 0")
        if self.confidence_threshold and not self.enable_confidence_head:
            raise ValueError("confidence_threshold needs enable_confidence_head=true")
        if self.enable_confidence_head and not self.loss.confidence:
            raise ValueError("enable_confidence_head=true needs loss.confidence above 0, or the head is not trained")
        return self
