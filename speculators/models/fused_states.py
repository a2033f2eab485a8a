"""Settings, published fields and tensors of drafts that read fused states of several of the verifier's layers. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from speculators.format.finding import Finding
from speculators.format.layers import DecoderLayers
from speculators.format.layout import Layout, TensorSpec, decoder_layer, prefixed
from speculators.format.shared_rules import reduced_vocabulary, state_width, verifier_layer_ids, vocabulary_map
from speculators.format.tensors import Tensors
from speculators.models.layer_config import DraftLayers
from speculators.settings.algorithm import AlgorithmSettings
from speculators.verifier.facts import VerifierFacts


class FusedStatesFields(BaseModel):
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
    def _check_norm_flags(self) -> "FusedStatesFields":
        if self.norm_before_fc and self.fc_norm:
            raise ValueError("norm_before_fc and fc_norm are mutually exclusive — enable one or the other, not both.")
        return self


class FusedStatesSettings(AlgorithmSettings, DraftLayers, FusedStatesFields):
    """Base of the settings of drafts that read several of the verifier's layers."""

    engines: ClassVar[tuple[str, ...]] = ("vllm",)
    published_fields: ClassVar[type[BaseModel]] = FusedStatesFields
    derived_keys: ClassVar[tuple[str, ...]] = ("transformer_layer_config", "target_hidden_size")

    draft_arch: Literal["llama", "qwen3"] = Field(
        description="kind of decoder layer; qwen3 normalises queries and keys"
    )
    eagle_aux_hidden_state_layer_ids: Annotated[list[int], Field(min_length=1)] | None = Field(
        description="verifier layers whose states the draft reads, ascending; null is 2, L/2, L-3, as in vLLM"
    )
    sliding_window: Annotated[int, Field(ge=1)] | None = Field(
        description="tokens that each layer attends over, the query's own included; null is all before it"
    )
    # In settings, null is the verifier's vocabulary size; in a published config it is always a number.
    draft_vocab_size: Annotated[int, Field(ge=1)] | None = Field(  # type: ignore[assignment] # wider than published
        description="tokens that the draft can predict, the most frequent ones; null is the verifier's vocabulary"
    )

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The chosen fields, the layer config, and the layer ids where none were chosen."""
        ids = self.eagle_aux_hidden_state_layer_ids or default_layer_ids(facts.num_hidden_layers)
        layer = self.layer_config(facts, self.draft_arch)
        if self.draft_arch == "llama" and len(ids) != 3:
            # vLLM's llama draft takes three states where this key is missing.
            layer["num_aux_hidden_states"] = len(ids)
        if self.sliding_window is not None:
            kinds = ["sliding_attention"] * self.num_hidden_layers
            layer |= {"layer_types": kinds, "sliding_window": self.sliding_window, "use_sliding_window": True}
        return self.model_dump(include=set(self.published_fields.model_fields)) | {
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


class FusedLayers(DecoderLayers):
    """Keys that engines read of the layers' config beside the layers' own."""

    num_aux_hidden_states: int | None = Field(default=None, ge=1)
    logit_scale: float | None = None
    eagle_config: dict[str, Any] | None = None


class FusedStatesLayout(Layout):
    """Base of the layouts of drafts that read several of the verifier's layers; engines read the published format."""

    layers: ClassVar[type[DecoderLayers]] = FusedLayers

    @classmethod
    def problems(cls, config: Mapping[str, Any], facts: VerifierFacts | None) -> Iterator[Finding]:
        """A reduced vocabulary, and states of several layers that may be of another width."""
        yield from reduced_vocabulary(config)
        yield from state_width(config, facts)
        yield from verifier_layer_ids(config, "eagle_aux_hidden_state_layer_ids", facts)

    @classmethod
    def value_problems(cls, config: Mapping[str, Any], tensors: Tensors) -> Iterator[Finding]:
        """d2t and t2d."""
        return vocabulary_map(tensors, config["transformer_layer_config"]["vocab_size"])

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """`fc`, the layers, the final norm and the head; an embedding only where the draft has one of its own."""
        layer = config["transformer_layer_config"]
        hidden, vocab = layer["hidden_size"], layer["vocab_size"]
        target_hidden = config.get("target_hidden_size") or hidden
        draft_vocab, fused = config["draft_vocab_size"], fused_width(config)
        count = len(config["eagle_aux_hidden_state_layer_ids"])
        reduced = draft_vocab != vocab

        specs = {"fc.weight": TensorSpec((hidden, fused)), "norm.weight": TensorSpec((hidden,))}
        if config.get("norm_before_fc"):
            specs["input_norm.weight"] = TensorSpec((fused,))
        if config.get("fc_norm"):
            specs |= {f"fc_norm.{i}.weight": TensorSpec((target_hidden,)) for i in range(count)}
        for i in range(layer["num_hidden_layers"]):
            # The first layer attends from the embedding beside the state; only there is the state normalised apart.
            specs |= prefixed(f"layers.{i}.", decoder_layer(layer, hidden * 2 if i == 0 else hidden))
        specs["layers.0.hidden_norm.weight"] = TensorSpec((hidden,))
        # A draft of another width, or one that trains them, has its own embedding and head; a reduced head is always its own.
        own_ends = hidden != target_hidden
        specs["embed_tokens.weight"] = TensorSpec(
            (vocab, hidden), required=own_ends or bool(config.get("embed_requires_grad"))
        )
        specs["lm_head.weight"] = TensorSpec((draft_vocab, hidden), required=own_ends or reduced)
        if reduced:
            specs["d2t"] = TensorSpec((draft_vocab,), kind="int64")
            specs["t2d"] = TensorSpec((vocab,), kind="bool", required=False)
        return specs


def fused_width(config: Mapping[str, Any]) -> int:
    """Width of the states that `fc` reads, of all layers together, by a published config."""
    width = config.get("target_hidden_size") or config["transformer_layer_config"]["hidden_size"]
    return len(config["eagle_aux_hidden_state_layer_ids"]) * width
