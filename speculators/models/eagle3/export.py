"""Tensors of an EAGLE-3 checkpoint. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from speculators.format.finding import Finding
from speculators.format.layers import DecoderLayers
from speculators.format.layout import Layout, TensorSpec, decoder_layer, prefixed
from speculators.format.shared_rules import reduced_vocabulary, state_width, verifier_layer_ids, vocabulary_map
from speculators.format.tensors import Tensors
from speculators.verifier.facts import VerifierFacts


class Eagle3Layers(DecoderLayers):
    """Keys that engines read of the layers' config beside the layers' own."""

    num_aux_hidden_states: int | None = Field(default=None, ge=1)
    logit_scale: float | None = None
    eagle_config: dict[str, Any] | None = None


@Layout.register("eagle3")
class Eagle3Layout(Layout):
    """Only the published format: engines read it directly."""

    title = "EAGLE-3"
    paper = "https://arxiv.org/abs/2503.01840"
    layers: ClassVar[type[DecoderLayers]] = Eagle3Layers

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
        draft_vocab = config["draft_vocab_size"]
        count = len(config["eagle_aux_hidden_state_layer_ids"])
        reduced = draft_vocab != vocab

        specs = {"fc.weight": TensorSpec((hidden, count * target_hidden)), "norm.weight": TensorSpec((hidden,))}
        if config.get("norm_before_fc"):
            specs["input_norm.weight"] = TensorSpec((count * target_hidden,))
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
