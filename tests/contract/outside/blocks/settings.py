"""What a blocks run is told."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from speculators.settings.algorithm import AlgorithmSettings, LossWeights
from speculators.verifier.facts import VerifierFacts


class BlocksFields(BaseModel):
    """Fields that are both chosen and published."""

    block_size: int = Field(default=4, ge=1, description="tokens drafted at once")
    width: int = Field(default=256, ge=1, description="hidden units of the network")
    markov_rank: int = Field(default=16, ge=1, description="rank of the term that the token before adds to the logits")


class BlocksLoss(LossWeights):
    """The divergences, and how well the draft foresees its acceptance."""

    confidence: float = Field(ge=0, description="binary cross entropy of the confidence with each row's overlap")


@AlgorithmSettings.register("blocks")
class BlocksSettings(AlgorithmSettings, BlocksFields):
    """Blocks after sampled anchors, weighted by what was accepted before."""

    published_fields: ClassVar[type[BaseModel]] = BlocksFields
    derived_keys: ClassVar[tuple[str, ...]] = ("hidden_size", "vocab_size")

    name: Literal["blocks"]
    loss: BlocksLoss  # type: ignore[assignment] # one weight more
    max_anchors: int = Field(ge=1, description="anchors drawn from a packed sequence in each step")
    dpace_alpha: float = Field(ge=0, le=1, description="D-PACE's smoothing; 1 weighs a slot by how many come after it")

    @property
    def slots(self) -> int:
        """A slot a token of the block."""
        return self.block_size

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The chosen fields and the verifier's sizes."""
        chosen = self.model_dump(include=set(BlocksFields.model_fields))
        return chosen | {"hidden_size": facts.hidden_size, "vocab_size": facts.vocab_size}
