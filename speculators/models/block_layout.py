"""What checkpoints of drafts of blocks share. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any

from speculators.format.finding import Finding
from speculators.format.layout import Layout, TensorSpec, decoder_layer, prefixed
from speculators.format.shared_rules import (
    LAYER,
    reduced_vocabulary,
    state_width,
    verifier_layer_ids,
    vocabulary_map,
)
from speculators.format.tensors import Tensors
from speculators.verifier.facts import VerifierFacts


class BlockLayout(Layout):
    """Only the published format: engines read it directly. Embedding and, of a whole vocabulary, head are the verifier's."""

    @classmethod
    def problems(cls, config: Mapping[str, Any], facts: VerifierFacts | None) -> Iterator[Finding]:
        """A reduced vocabulary, a mask token of the verifier's, and states of several layers."""
        yield from reduced_vocabulary(config)
        yield from state_width(config, facts)
        yield from verifier_layer_ids(config, "aux_hidden_state_layer_ids", facts)
        layer, mask = config.get(LAYER), config.get("mask_token_id")
        layer = layer if isinstance(layer, Mapping) else {}
        vocab, kind = facts.vocab_size if facts else layer.get("vocab_size"), layer.get("model_type")
        if kind not in (None, "qwen3"):
            yield Finding("invalid", f"{LAYER}.model_type", kind, "must be qwen3: these drafts have no other layers")
        if isinstance(mask, int) and isinstance(vocab, int) and not 0 <= mask < vocab:
            yield Finding("invalid", "mask_token_id", mask, f"must be a token of the verifier's, 0 ... {vocab - 1}")

    @classmethod
    def value_problems(cls, config: Mapping[str, Any], tensors: Tensors) -> Iterator[Finding]:
        """d2t and t2d."""
        return vocabulary_map(tensors, config[LAYER]["vocab_size"])

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """`fc`, norms and layers; of a reduced vocabulary its head and its tables."""
        layer = {**config[LAYER], "model_type": "qwen3"}  # whatever it says, as in vLLM
        hidden, vocab, draft_vocab = layer["hidden_size"], layer["vocab_size"], config["draft_vocab_size"]
        count = len(config["aux_hidden_state_layer_ids"])
        specs = {
            "fc.weight": TensorSpec((hidden, count * (config.get("target_hidden_size") or hidden))),
            "hidden_norm.weight": TensorSpec((hidden,)),
            "norm.weight": TensorSpec((hidden,)),
        }
        for i in range(layer["num_hidden_layers"]):
            specs |= prefixed(f"layers.{i}.", decoder_layer(layer, hidden))
            if layer.get("attention_bias"):  # other drafts of Qwen3 layers have no bias there
                specs[f"layers.{i}.self_attn.o_proj.bias"] = TensorSpec((hidden,))
        if draft_vocab != vocab:
            specs["lm_head.weight"] = TensorSpec((draft_vocab, hidden))
            specs["d2t"] = TensorSpec((draft_vocab,), kind="int64")
            specs["t2d"] = TensorSpec((vocab,), kind="bool", required=False)
        return specs
