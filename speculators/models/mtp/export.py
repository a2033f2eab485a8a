"""Tensors of an MTP layer, and its config in vLLM's format. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from speculators.format.finding import Finding
from speculators.format.layout import Layout, TensorSpec, decoder_layer, prefixed
from speculators.models.mtp.settings import MIMO
from speculators.verifier.facts import VerifierFacts

LAYER, PREFIX = "transformer_layer_config", "mtp_layers.0."
# MiMo's layers, and those with which upstream trains plain Qwen3 models.
KINDS = ("qwen2", "qwen3")


@Layout.register("mtp")
class MTPLayout(Layout):
    """Upstream's names, which are those of MiMo's checkpoints without `model.`."""

    title = "MTP"
    paper = "https://arxiv.org/abs/2509.18362"
    in_verifier: ClassVar[bool] = True

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """A decoder layer, the projection before it, and norms around both; embedding and head are the verifier's."""
        layer = config[LAYER]
        hidden = layer["hidden_size"]
        norms = ("hidden_layernorm", "token_layernorm", "final_layernorm")
        own = {f"{name}.weight": TensorSpec((hidden,)) for name in norms}
        own["input_proj.weight"] = TensorSpec((hidden, 2 * hidden))
        return prefixed(PREFIX, own | decoder_layer(layer, hidden))

    @classmethod
    def problems(cls, config: Mapping[str, Any], facts: VerifierFacts | None) -> Iterator[Finding]:
        """Kinds of layers, and sizes that are the verifier's."""
        layer = config.get(LAYER)
        if not isinstance(layer, Mapping):
            return
        kind = layer.get("model_type")
        if kind not in KINDS:
            reason = f"must be {' or '.join(KINDS)}: MTP layers of other kinds are not supported"
            yield Finding("invalid", f"{LAYER}.model_type", kind, reason)
        if facts is None:
            return
        for key, right in (("hidden_size", facts.hidden_size), ("num_hidden_layers", facts.num_hidden_layers)):
            if layer.get(key) != right:
                reason = f"must be the verifier's, {right}: the layer reads the state after its last layer"
                yield Finding("invalid", f"{LAYER}.{key}", layer.get(key), reason)

    @classmethod
    def native(cls, config: Mapping[str, Any], engine: str) -> dict[str, Any] | None:
        """The config of a verifier of MiMo's class, by which vLLM recognises its MTP layer."""
        layers = config.get("num_nextn_predict_layers", 1)
        return {**config[LAYER], "architectures": [MIMO], "num_nextn_predict_layers": layers}

    @classmethod
    def native_name(cls, name: str) -> str:
        """The name in a verifier's checkpoint: vllm/model_executor/models/mimo_mtp.py:MiMoMTP.load_weights."""
        return f"model.{name}"
