"""Settings of `verifier_answers`: what generates the answers of data.regenerate."""

from typing import Literal

from pydantic import Field

from speculators.settings.vllm import VllmSettings
from speculators.utils.strict import Strict


class InProcessAnswers(Strict):
    """Answers of data.regenerate that the verifier generates in this process."""

    source: Literal["in_process"]


class ServedAnswers(VllmSettings):
    """Answers of data.regenerate that a vLLM server generates."""

    source: Literal["served"]
    model: str | None = Field(
        min_length=1, description="name under which a given server serves the verifier; null is verifier.name_or_path"
    )
    thinking_token_budget: int | None = Field(
        ge=0, description="most tokens of an answer's reasoning, which the server then ends; null is no limit"
    )
