"""Settings of `evaluation`: decoding with the trained draft."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from speculators.settings.data import Place
from speculators.utils.strict import PositiveInt, Strict


def _place(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError("should be {path: FILE} or {name: DATASET}")
    return value


class EvaluationSettings(Strict):
    """Decoding with the draft on held-out prompts, and on prompts of their own source."""

    objective: Literal["acceptance_length", "tokens_per_second", "speedup"] = Field(
        description="value that a sweep maximises; speedup is modelled with cost_ratio"
    )
    cost_ratio: float = Field(
        ge=0,
        description="time of a pass of the draft model, as a share of a pass of the verifier; for the modelled speedup",
    )
    data: Annotated[Place | None, BeforeValidator(_place)] = Field(
        description="further prompts to decode, not those of `data`: {path: FILE} or {name: DATASET, split: SPLIT}; null is none"
    )
    num_prompts: int = Field(ge=0, description="prompts decoded of each source; 0 skips the evaluation")
    max_new_tokens: PositiveInt = Field(description="tokens generated per prompt")
    batch_size: PositiveInt = Field(description="prompts decoded in one batch")
    temperature: float = Field(ge=0, description="sampling temperature of the verifier; 0 is greedy")
    top_k: PositiveInt | None = Field(
        description="number of most likely tokens that the verifier samples from; null is all"
    )
    top_p: float = Field(
        gt=0,
        le=1,
        description="the verifier samples from the fewest most likely tokens whose probabilities sum to at least this",
    )
    tie_epsilon: float = Field(
        ge=0,
        description="a token that is not the verifier's most likely one is a tie if its logit is this close to the largest",
    )
