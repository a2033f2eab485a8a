"""Settings of EAGLE-3, and the fields of them that are published. Torch-free."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from speculators.models.layer_config import DraftLayers
from speculators.settings.algorithm import AlgorithmSettings
from speculators.verifier.facts import VerifierFacts


class Eagle3Fields(BaseModel):
    """Fields that are both chosen and published; the defaults serve reading a published config alone."""

    draft_vocab_size: int = Field(
        default=32000, description="tokens that the draft can predict, the most frequent ones"
    )
    norm_before_residual: bool = Field(default=False, description="the first layer's residual is the normalised state")
    eagle_aux_hidden_state_layer_ids: list[int] | None = Field(
        default=None,
        description="verifier layers whose states the draft reads, ascending; null is the engine's choice",
    )
    norm_before_fc: bool = Field(default=False, description="one RMSNorm over the concatenated states before fc")
    fc_norm: bool = Field(default=False, description="one RMSNorm for each of the states before they are concatenated")
    norm_output: bool = Field(default=False, description="the state fed to the next step is the normalised one")
    embed_requires_grad: bool = Field(default=False, description="the draft trains an embedding of its own")

    @model_validator(mode="after")
    def _check_norm_flags(self) -> "Eagle3Fields":
        if self.norm_before_fc and self.fc_norm:
            raise ValueError("norm_before_fc and fc_norm are mutually exclusive — enable one or the other, not both.")
        return self


@AlgorithmSettings.register("eagle3")
class Eagle3Settings(AlgorithmSettings, DraftLayers, Eagle3Fields):
    """EAGLE-3 in training (Li et al. 2025, arXiv:2503.01840)."""

    engines: ClassVar[tuple[str, ...]] = ("vllm",)
    published_fields: ClassVar[type[BaseModel]] = Eagle3Fields
    derived_keys: ClassVar[tuple[str, ...]] = ("transformer_layer_config", "target_hidden_size")
    recurrent: ClassVar[bool] = True

    name: Literal["eagle3"]
    ttt_steps: int = Field(ge=1, description="steps of training-time test: how many tokens ahead the draft is trained")
    draft_arch: Literal["llama", "qwen3"] = Field(
        description="kind of decoder layer; qwen3 normalises queries and keys"
    )
    eagle_aux_hidden_state_layer_ids: Annotated[list[int], Field(min_length=1)] | None = Field(
        description="verifier layers whose states the draft reads, ascending; null is 2, L/2, L-3, as in vLLM"
    )
    # In settings, null is the verifier's vocabulary size; in a published config it is always a number.
    draft_vocab_size: Annotated[int, Field(ge=1)] | None = Field(  # type: ignore[assignment] # wider than published
        description="tokens that the draft can predict, the most frequent ones; null is the verifier's vocabulary"
    )

    @property
    def slots(self) -> int:
        """One slot a step."""
        return self.ttt_steps

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The chosen fields, the layer config, and the layer ids where none were chosen."""
        ids = self.eagle_aux_hidden_state_layer_ids or default_layer_ids(facts.num_hidden_layers)
        layer = self.layer_config(facts, self.draft_arch)
        if self.draft_arch == "llama" and len(ids) != 3:
            # vLLM's llama draft takes three states unless it is told otherwise here.
            layer["num_aux_hidden_states"] = len(ids)
        return self.model_dump(include=set(Eagle3Fields.model_fields)) | {
            "transformer_layer_config": layer,
            "draft_vocab_size": self.draft_vocab_size or facts.vocab_size,
            "eagle_aux_hidden_state_layer_ids": ids,
            "target_hidden_size": facts.hidden_size,
        }


def default_layer_ids(layers: int) -> list[int]:
    """vLLM's choice of an early, a middle and a late layer; fewer where a shallow verifier makes them coincide.

    Args:
        layers: the verifier's layers, L >= 1. An id is the layer that the state enters, so 1 is the first layer's output.
    """
    return sorted({min(max(i, 1), layers) for i in (2, layers // 2, layers - 3)})
