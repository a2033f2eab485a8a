"""What a window LM run is told."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from speculators.settings.algorithm import AlgorithmSettings
from speculators.verifier.facts import VerifierFacts


class WindowLMFields(BaseModel):
    """Fields that are both chosen and published."""

    window: int = Field(default=6, ge=1, description="tokens that a prediction reads")
    embedding_size: int = Field(default=32, ge=1, description="size of a token's embedding")
    width: int = Field(default=256, ge=1, description="hidden units")


@AlgorithmSettings.register("window_lm")
class WindowLMSettings(AlgorithmSettings, WindowLMFields):
    """A language model of its own; it reads nothing of the verifier."""

    published_fields: ClassVar[type[BaseModel]] = WindowLMFields
    derived_keys: ClassVar[tuple[str, ...]] = ("vocab_size",)

    name: Literal["window_lm"]

    @property
    def slots(self) -> int:
        """The tokens between anchor and target are true ones in training, so that all slots of a target are alike."""
        return 1

    @property
    def recurrent(self) -> bool:
        """A language model goes on as far as it is asked."""
        return True

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The chosen fields and the verifier's vocabulary."""
        return self.model_dump(include=set(WindowLMFields.model_fields)) | {"vocab_size": facts.vocab_size}
