"""Settings of drafts that fill blocks, and the fields of them that are published. Torch-free."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field

from speculators.models.layer_config import DraftLayers
from speculators.settings.algorithm import AlgorithmSettings
from speculators.verifier.facts import VerifierFacts


class BlockFields(BaseModel):
    """Fields that are both chosen and published; the defaults serve reading a published config alone."""

    draft_vocab_size: int = Field(
        default=32000, description="tokens that the draft can predict, the most frequent ones"
    )
    block_size: int = Field(default=8, description="inputs of a block: the token after the anchor, and mask tokens")
    aux_hidden_state_layer_ids: list[int] | None = Field(
        default=None, description="verifier layers whose states the draft reads, ascending"
    )
    mask_token_id: int | None = Field(default=None, description="token of a block's unknown inputs")
    sliding_window_non_causal: bool = Field(default=False, description="a block's inputs see those after them")
    sample_from_anchor: bool = Field(
        default=False, description="the first input predicts too, each the token after it; else a mask predicts its own"
    )

    @property
    def block_slots(self) -> int:
        """Tokens that a block predicts."""
        return self.block_size if self.sample_from_anchor else self.block_size - 1


class BlockSettings(AlgorithmSettings, DraftLayers, BlockFields):
    """Settings that all drafts of blocks share; an algorithm's own class registers itself."""

    engines: ClassVar[tuple[str, ...]] = ("vllm",)
    derived_keys: ClassVar[tuple[str, ...]] = ("transformer_layer_config", "target_hidden_size")

    block_size: int = Field(ge=2, description="inputs of a block: the token after the anchor, and mask tokens")
    # In settings, null leaves a value to the verifier's sizes; a published config names it.
    draft_vocab_size: Annotated[int, Field(ge=1)] | None = Field(  # type: ignore[assignment] # wider than published
        description="tokens that the draft can predict, the most frequent ones; null is the verifier's vocabulary"
    )
    aux_hidden_state_layer_ids: Annotated[list[int], Field(min_length=1)] | None = Field(
        description="verifier layers whose states the draft reads, ascending; null is five from the second to the third last"
    )
    mask_token_id: Annotated[int, Field(ge=0)] | None = Field(
        description="token of a block's unknown inputs; null is the last of the verifier's vocabulary"
    )
    sliding_window: Annotated[int, Field(ge=1)] | None = Field(
        description="tokens that a layer sees back; null is full attention"
    )
    max_anchors: int = Field(ge=1, description="anchors drawn from a packed sequence in each step")
    dpace_alpha: Annotated[float, Field(ge=0, le=1)] | None = Field(
        description="smoothing of D-PACE's weights; null weighs slots by slot_decay alone"
    )

    @property
    def slots(self) -> int:
        """One slot for each token that a block predicts."""
        return self.block_slots

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The chosen fields, the layer config, and what the verifier's sizes determine."""
        layer = self.layer_config(facts, "qwen3")
        if self.sliding_window is not None:
            kinds = ["sliding_attention"] * self.num_hidden_layers
            layer |= {"use_sliding_window": True, "sliding_window": self.sliding_window, "layer_types": kinds}
        mask = facts.vocab_size - 1 if self.mask_token_id is None else self.mask_token_id
        return self.model_dump(include=set(type(self).published_fields.model_fields)) | {
            "transformer_layer_config": layer,
            "draft_vocab_size": self.draft_vocab_size or facts.vocab_size,
            "aux_hidden_state_layer_ids": self.aux_hidden_state_layer_ids or even_layer_ids(facts.num_hidden_layers),
            "mask_token_id": mask,
            "target_hidden_size": facts.hidden_size,
        }


def even_layer_ids(layers: int) -> list[int]:
    """Five layers, evenly from the second to the third last, as the DFlash paper has it; fewer in a shallow verifier.

    Args:
        layers: the verifier's layers, L >= 1. An id is the layer that the state enters, so 1 is the first layer's output.
    """
    first, last = min(2, layers), max(layers - 2, 1)
    return sorted({round(first + (last - first) * i / 4) for i in range(5)})
