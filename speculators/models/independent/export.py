"""Tensors of an independent draft's checkpoint, and the language model's own config. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any

from speculators.format.finding import Finding
from speculators.format.layout import Layout, TensorSpec, decoder_layer, prefixed
from speculators.models.independent.settings import CLASSES
from speculators.verifier.facts import VerifierFacts

LAYER = "transformer_layer_config"


@Layout.register("independent")
class IndependentLayout(Layout):
    """The tensors have transformers' names in both formats, so that the native folder is an ordinary language model."""

    title = "independent"
    paper = "https://arxiv.org/abs/2211.17192"

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """Embedding, layers, final norm, and a head unless the embedding is it."""
        layer = config[LAYER]
        hidden, vocab = layer["hidden_size"], layer["vocab_size"]
        specs = {"model.embed_tokens.weight": TensorSpec((vocab, hidden)), "model.norm.weight": TensorSpec((hidden,))}
        for i in range(layer["num_hidden_layers"]):
            specs |= prefixed(f"model.layers.{i}.", decoder_layer({**layer, "attention_bias": False}, hidden))
        if not layer.get("tie_word_embeddings"):
            specs["lm_head.weight"] = TensorSpec((vocab, hidden))
        return specs

    @classmethod
    def problems(cls, config: Mapping[str, Any], facts: VerifierFacts | None) -> Iterator[Finding]:
        """Kinds of layers, biases that they have not, and a mask token that has an embedding."""
        layer = config.get(LAYER)
        if not isinstance(layer, Mapping):
            return
        token, vocab = config.get("pard_token"), layer.get("vocab_size")
        known = isinstance(token, int) and isinstance(vocab, int) and 0 <= token < vocab
        if config.get("parallel_drafting") is True and not known:
            yield Finding(
                "invalid", "pard_token", token, f"must be a token of the verifier, of which there are {vocab}"
            )
        kind = layer.get("model_type")
        if not isinstance(kind, str) or kind not in CLASSES:
            yield Finding("invalid", f"{LAYER}.model_type", kind, f"must be one of {', '.join(CLASSES)}")
        biases = {"mlp_bias"} if kind == "qwen2" else {"attention_bias", "mlp_bias"}
        for key in sorted(key for key in biases if layer.get(key)):
            yield Finding("invalid", f"{LAYER}.{key}", layer[key], "must be false: layers with it are not supported")

    @classmethod
    def native(cls, config: Mapping[str, Any], engine: str) -> dict[str, Any] | None:
        """The language model's config, with PARD's key for the mask token, which vLLM reads."""
        kind = config[LAYER]["model_type"]
        mask = {"pard_token": config.get("pard_token")} if config.get("parallel_drafting") else {}
        return {**config[LAYER], "architectures": [CLASSES.get(kind, kind)], **mask}
