"""Settings of MTP layers, and the field of them that is published. Torch-free."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from speculators.models.layer_config import sized_as
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.strict import Count
from speculators.verifier.facts import VerifierFacts

# Verifiers with such a layer, by the class that their config.json names.
MIMO = "MiMoForCausalLM"


class MTPFields(BaseModel):
    """The field that is both chosen and published; the default serves reading a published config alone."""

    num_nextn_predict_layers: int = Field(default=1, description="MTP layers of the checkpoint")

    @field_validator("num_nextn_predict_layers")
    @classmethod
    def check_one_layer(cls, value: int) -> int:
        """Engines apply the first layer in every step."""
        if value != 1:
            raise ValueError(f"MTP currently supports 1 layer, got {value}.")
        return value


@AlgorithmSettings.register("mtp")
class MTPSettings(AlgorithmSettings, MTPFields):
    """A verifier's own MTP layer in training (FastMTP, Cai et al. 2025, arXiv:2509.18362)."""

    engines: ClassVar[tuple[str, ...]] = ("vllm",)
    published_fields: ClassVar[type[BaseModel]] = MTPFields
    verifier_architectures: ClassVar[tuple[str, ...]] = (MIMO,)

    name: Literal["mtp"]
    num_speculative_steps: Count = Field(description="steps trained, each on the output of the step before")

    @property
    def recurrent(self) -> bool:
        """Each token is drafted from the output at the token before it."""
        return True

    @property
    def slots(self) -> int:
        """One slot a step."""
        return self.num_speculative_steps

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The chosen field, and the verifier's own layers, of which the MTP layer is one more."""
        layer = sized_as(facts) | {
            "model_type": "qwen2",
            "architectures": [MIMO],
            "attention_bias": True,
            # The layer is not new: it was trained with the verifier's positions.
            "rope_parameters": facts.rope_parameters,
        }
        return self.model_dump(include=set(MTPFields.model_fields)) | {"transformer_layer_config": layer}
