"""Tensors of a Medusa checkpoint, and its config in vLLM's format. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from speculators.format.finding import Finding
from speculators.format.layout import Layout, TensorSpec
from speculators.format.shared_rules import token_ids
from speculators.format.tensors import Tensors


@Layout.register("medusa")
class MedusaLayout(Layout):
    """The same tensors in both formats; the native config has the same keys at top level."""

    title = "Medusa"
    paper = "https://arxiv.org/abs/2401.10774"
    vocabulary_key: ClassVar[str] = "vocab_size"

    @classmethod
    def value_problems(cls, config: Mapping[str, Any], tensors: Tensors) -> Iterator[Finding]:
        """The tokens of a truncated head."""
        return token_ids(tensors, "token_map", config["vocab_size"])

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """The blocks of every head, and the vocabulary heads: nothing is the verifier's."""
        hidden, vocab = config["hidden_size"], config["vocab_size"]
        rows = config.get("truncated_vocab_size") or vocab
        specs = {}
        for head in range(config["num_heads"]):
            for layer in range(config["num_hidden_layers"]):
                specs[f"blocks.{head}.layers.{layer}.weight"] = TensorSpec((hidden, hidden))
                if config.get("medusa_fc_bias"):
                    specs[f"blocks.{head}.layers.{layer}.bias"] = TensorSpec((hidden,))
            if not config.get("original_lm_head"):
                specs[f"lm_heads.{head}.weight"] = TensorSpec((rows, hidden))
        if config.get("original_lm_head"):
            specs["lm_head.weight"] = TensorSpec((rows, hidden))
            if rows < vocab:
                specs["token_map"] = TensorSpec((rows,), kind="int64")
        return specs

    @classmethod
    def native(cls, config: Mapping[str, Any], engine: str) -> dict[str, Any] | None:
        """vLLM's MedusaConfig, which takes no other key with `num` and `heads` in its name."""
        keys = "hidden_size vocab_size num_heads num_hidden_layers medusa_fc_bias original_lm_head truncated_vocab_size"
        return {
            "model_type": "medusa",
            "architectures": ["MedusaModel"],
            **{key: config[key] for key in keys.split() if config.get(key) is not None},
        }
