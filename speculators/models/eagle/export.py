"""Tensors of an EAGLE-1 checkpoint, and its config in vLLM's format. Torch-free."""

from collections.abc import Mapping
from typing import Any

from speculators.format.layout import Layout, TensorSpec, decoder_layer, prefixed


@Layout.register("eagle")
class EagleLayout(Layout):
    """The same tensors in both formats; engines know this draft only as a llama model with an `fc`."""

    title = "EAGLE"
    paper = "https://arxiv.org/abs/2401.15077"

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """`fc` and the layers. No final norm and no head: the verifier's head reads the state as it is."""
        layer = config["transformer_layer_config"]
        hidden = layer["hidden_size"]
        specs = {"fc.weight": TensorSpec((hidden, 2 * hidden))}
        if config.get("fusion_bias"):
            specs["fc.bias"] = TensorSpec((hidden,))
        if config.get("layernorms"):
            specs |= {f"{name}.weight": TensorSpec((hidden,)) for name in ("embedding_layernorm", "lm_head_layernorm")}
        for i in range(layer["num_hidden_layers"]):
            # fc has just mixed its input: the paper's first layer does not normalise it.
            specs |= prefixed(f"layers.{i}.", decoder_layer(layer, hidden, input_norm=i > 0))
        specs["embed_tokens.weight"] = TensorSpec((layer["vocab_size"], hidden), required=False)
        return specs

    @classmethod
    def native(cls, config: Mapping[str, Any], engine: str) -> dict[str, Any] | None:
        """A llama config of the draft's layers."""
        return {**config["transformer_layer_config"], "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
