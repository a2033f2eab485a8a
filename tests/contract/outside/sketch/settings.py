"""What a sketch run is told."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from speculators.settings.algorithm import AlgorithmSettings
from speculators.verifier.facts import VerifierFacts


class SketchFields(BaseModel):
    """Fields that are both chosen and published."""

    num_slots: int = Field(default=3, ge=1, description="tokens drafted at once")
    width: int = Field(default=256, ge=1, description="hidden units of a slot's network")


@AlgorithmSettings.register("sketch")
class SketchSettings(AlgorithmSettings, SketchFields):
    """Networks side by side."""

    published_fields: ClassVar[type[BaseModel]] = SketchFields
    derived_keys: ClassVar[tuple[str, ...]] = ("hidden_size", "vocab_size")

    name: Literal["sketch"]

    @property
    def slots(self) -> int:
        """One slot a network."""
        return self.num_slots

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The chosen fields and the verifier's sizes."""
        chosen = self.model_dump(include=set(SketchFields.model_fields))
        return chosen | {"hidden_size": facts.hidden_size, "vocab_size": facts.vocab_size}
