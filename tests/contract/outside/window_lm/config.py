"""The published config of a window LM."""

from typing import Literal

from pydantic import Field

from speculators.config import SpeculatorModelConfig
from window_lm.settings import WindowLMFields


@SpeculatorModelConfig.register("window_lm")
class WindowLMConfig(SpeculatorModelConfig, WindowLMFields):
    """A feed-forward network over the embeddings of the last tokens."""

    speculators_model_type: Literal["window_lm"] = "window_lm"
    architectures: list[str] = Field(default_factory=lambda: ["WindowLM"])
    vocab_size: int = Field(default=128, ge=1, description="the verifier's vocabulary")
