"""Settings of EAGLE-1, and the fields of them that are published. Torch-free."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from speculators.models.layer_config import DraftLayers
from speculators.settings.algorithm import AlgorithmSettings, LossWeights
from speculators.utils.strict import Count
from speculators.verifier.facts import VerifierFacts


class EagleFields(BaseModel):
    """Fields that are both chosen and published; the defaults serve reading a published config alone."""

    transformer_layer_architecture: str = Field(
        default="auto", description="class of the decoder layer; auto takes the one of transformer_layer_config"
    )
    layernorms: bool = Field(default=False, description="normalise the embedding and the verifier's state before fc")
    fusion_bias: bool = Field(default=False, description="fc has a bias")


class EagleLoss(LossWeights):
    """The divergences, and the distance between states (EAGLE-1, equation 2)."""

    smooth_l1: float = Field(ge=0, description="smooth-L1 distance between the draft's state and the verifier's")


@AlgorithmSettings.register("eagle")
class EagleSettings(AlgorithmSettings, DraftLayers, EagleFields):
    """EAGLE-1 in training (Li et al. 2024, arXiv:2401.15077); with several steps, HASS (Zhang et al. 2024, arXiv:2408.15766)."""

    engines: ClassVar[tuple[str, ...]] = ("vllm",)
    published_fields: ClassVar[type[BaseModel]] = EagleFields

    name: Literal["eagle"]
    transformer_layer_architecture: Literal["auto", "LlamaDecoderLayer"] = Field(  # type: ignore[assignment] # narrower
        description="class of the decoder layer: Llama's, the only one that can be trained"
    )
    ttt_steps: Count = Field(description="steps trained on the draft's own states: 1 is EAGLE-1, more are HASS")
    detach_feedback: bool = Field(description="no gradient flows from a step into the state that it was fed (HASS)")
    state_noise: float = Field(
        ge=0, description="uniform noise added to the verifier's states in training, its width at 512 tokens a sequence"
    )
    loss: EagleLoss  # type: ignore[assignment] # one weight more

    @field_validator("layernorms", "fusion_bias")
    @classmethod
    def check_trainable(cls, flag: bool) -> bool:
        """Engines have neither."""
        if flag:
            raise ValueError("true is read from published configs, but cannot be trained; set it to false")
        return flag

    @property
    def slots(self) -> int:
        """One slot a step."""
        return self.ttt_steps

    @property
    def recurrent(self) -> bool:
        """Every step is the same computation."""
        return True

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The chosen fields and a Llama layer config, the only kind that vLLM serves as EAGLE-1."""
        chosen = self.model_dump(include=set(EagleFields.model_fields))
        return chosen | {"transformer_layer_config": self.layer_config(facts, "llama")}
