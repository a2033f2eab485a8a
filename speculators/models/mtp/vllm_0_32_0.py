"""What vLLM 0.32.0 does with MTP layers of MiMo. Torch-free.

Sources are `file:function`, files relative to the package `vllm`.
"""

from collections.abc import Iterator
from typing import Any

from speculators.export.config_rules import lookup, one_of
from speculators.export.engine import Config, TensorRules
from speculators.export.engines.vllm_0_32_0 import CUT, LAYER, VllmDraft, decoder_layers, native_layers
from speculators.format.finding import Finding
from speculators.models.mtp.settings import MIMO
from speculators.verifier.facts import VerifierFacts

# Keys of the verifier's config that the layer is built from.
SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
FROM_THE_VERIFIER = (*SIZES, "rms_norm_eps", "rope_parameters")


@VllmDraft.register("mtp")
class Mtp(VllmDraft):
    """Beside its verifier, or inside a copy of it; the layer is built from the verifier's config alone.

    model_executor/models/mimo_mtp.py:MiMoMultiTokenPredictor.__init__ reads the config of the served model.
    """

    native = True
    method = "mtp"
    reads = (LAYER, "speculators_config", "num_nextn_predict_layers")
    # v1/spec_decode/llm_base_proposer.py:SpecDecodeBaseProposer.__init__ takes the width of states from the draft's config,
    # and transformers wants as many layer_types as layers.
    stops_at = (f"{LAYER}.hidden_size", f"{LAYER}.num_hidden_layers", f"{LAYER}.model_type", "num_nextn_predict_layers")
    # Of missing tensors only norms and the projection are noticed; the decoder layer's linear layers stay as memory was:
    # model_executor/model_loader/default_loader.py:DefaultModelLoader.track_weights_loading. Names that are not of an MTP
    # layer are skipped, and an embedding or head is replaced by the verifier's:
    # model_executor/models/mimo_mtp.py:MiMoMTP.load_weights.
    tensors = TensorRules(
        missing="refused",
        unknown="refused",
        unnoticed=("*.self_attn.*", "*.mlp.*"),
        dropped=("*.bias", "model.norm.weight", "*embed_tokens.weight", "*lm_head.weight"),
        cut=CUT,
    )

    def as_read(self, config: Config, facts: VerifierFacts | None) -> dict[str, Any]:
        """With the verifier's sizes, and what model_executor/models/qwen2.py makes of them: Qwen2Attention, Qwen2MLP."""
        layer = config.get(LAYER)
        if facts is None or not isinstance(layer, dict):
            return dict(config)
        own = {key: facts.model_dump()[key] for key in FROM_THE_VERIFIER}
        heads = {"head_dim": facts.hidden_size // facts.num_attention_heads}
        own |= {"model_type": "qwen2", "hidden_act": "silu", **heads}
        return {**config, LAYER: layer | own}

    def problems(self, config: Config, read: Config, facts: VerifierFacts | None) -> Iterator[Finding]:
        """A verifier of MiMo's class, and a config that says what the verifier's says."""
        yield from one_of(
            config, f"{LAYER}.model_type", ("qwen2",), "vLLM computes MiMo's layer, a qwen2", level="wrong"
        )
        if facts is not None:
            if MIMO not in facts.architectures:  # config/speculative.py:SpeculativeConfig.hf_config_override
                key = "speculators_config.verifier.architectures"
                reason = f"vLLM serves MTP layers of {MIMO} alone among those that can be trained here"
                yield Finding("refused", key, facts.architectures, reason)
            for key in (*FROM_THE_VERIFIER, "head_dim", "hidden_act"):
                value, right = lookup(config, f"{LAYER}.{key}"), lookup(read, f"{LAYER}.{key}")
                if value != right and value is not None:
                    reason = f"vLLM builds the layer from the verifier's config, by which it is {right!r}"
                    yield Finding("wrong", f"{LAYER}.{key}", value, reason)
        yield from decoder_layers(read, facts, extends_context=False)

    def native_problems(self, native: Config, config: Config) -> Iterator[Finding]:
        """The class is chosen by the architecture: config/speculative.py:SpeculativeConfig.hf_config_override."""
        reason = "vLLM would take it for another model; export again"
        yield from one_of(native, "model_type", ("qwen2",), reason)
        yield from one_of(native, "architectures", ([MIMO],), reason)
        yield from native_layers(native, self)
