"""What an EAGLE-3 checkpoint holds. Torch-free."""

from collections.abc import Mapping
from typing import Any

from speculators.format.layout import Layout, TensorSpec, decoder_layer, prefixed


@Layout.register("eagle3")
class Eagle3Layout(Layout):
    """Published format alone: it is what engines read."""

    title = "EAGLE-3"
    paper = "https://arxiv.org/abs/2503.01840"

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
        # Of another width, or trained, neither end can be the verifier's; a reduced head never is.
        own_ends = hidden != target_hidden
        specs["embed_tokens.weight"] = TensorSpec(
            (vocab, hidden), required=own_ends or bool(config.get("embed_requires_grad"))
        )
        specs["lm_head.weight"] = TensorSpec((draft_vocab, hidden), required=own_ends or reduced)
        if reduced:
            specs["d2t"] = TensorSpec((draft_vocab,), kind="int64")
            specs["t2d"] = TensorSpec((vocab,), kind="bool", required=False)
        return specs
