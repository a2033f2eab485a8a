"""What a thinned run is told."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from speculators.settings.algorithm import AlgorithmSettings
from speculators.verifier.facts import VerifierFacts


class ThinnedFields(BaseModel):
    """Fields that are both chosen and published."""

    num_slots: int = Field(default=3, ge=1, description="tokens drafted at once")
    width: int = Field(default=256, ge=1, description="hidden units of a slot's network")


@AlgorithmSettings.register("thinned")
class ThinnedSettings(AlgorithmSettings, ThinnedFields):
    """Networks side by side; each anchor's chain of rows goes on with a fixed chance."""

    published_fields: ClassVar[type[BaseModel]] = ThinnedFields
    derived_keys: ClassVar[tuple[str, ...]] = ("hidden_size", "vocab_size")

    name: Literal["thinned"]
    keep_rate: float = Field(gt=0, le=1, description="share of an anchor's rows of one slot that have one of the next")
    state_noise: float = Field(ge=0, description="uniform noise added to the verifier's states in training, its width")

    @property
    def slots(self) -> int:
        """One slot a network."""
        return self.num_slots

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The chosen fields and the verifier's sizes."""
        chosen = self.model_dump(include=set(ThinnedFields.model_fields))
        return chosen | {"hidden_size": facts.hidden_size, "vocab_size": facts.vocab_size}
