"""What vLLM 0.32.0 does with EAGLE drafts. Torch-free.

Sources are `file:function`, files relative to the package `vllm`.
"""

from collections.abc import Iterator
from typing import Any

from speculators.export.config_rules import one_of
from speculators.export.engine import Config, TensorRules
from speculators.export.engines.vllm_0_32_0 import (
    CUT,
    LAYER,
    VllmDraft,
    as_wide_as_the_verifier,
    decoder_layers,
    llama_config,
    native_layers,
)
from speculators.format.finding import Finding
from speculators.verifier.facts import VerifierFacts

LLAMA = "vLLM's EAGLE layers are always llama's"


@VllmDraft.register("eagle")
class Eagle(VllmDraft):
    """In vLLM's own format: transformers_utils/configs/speculators/algos.py has no EAGLE.

    model_executor/models/llama_eagle.py
    """

    native = True
    method = "eagle"
    reads = (
        "transformer_layer_config",
        "transformer_layer_architecture",
        "speculators_config",
        "layernorms",
        "fusion_bias",
    )
    # A missing linear layer stays as memory was, for load_weights returns no names; a bias that the class lacks is
    # dropped: model_executor/models/llama_eagle.py:EagleLlamaForCausalLM.load_weights.
    tensors = TensorRules(missing="wrong", unknown="refused", dropped=("*.bias",), cut=CUT)

    def as_read(self, config: Config, facts: VerifierFacts | None) -> dict[str, Any]:
        """As transformers' LlamaConfig: transformers_utils/configs/eagle.py:EAGLEConfig."""
        return llama_config(config)

    def problems(self, config: Config, read: Config, facts: VerifierFacts | None) -> Iterator[Finding]:
        """One kind of layer, without what the class lacks: model_executor/models/llama_eagle.py:LlamaModel."""
        yield from one_of(read, f"{LAYER}.model_type", ("llama",), LLAMA, level="wrong")
        architectures = ("auto", "LlamaDecoderLayer", None)
        yield from one_of(read, "transformer_layer_architecture", architectures, LLAMA, level="wrong")
        reason = "vLLM's EAGLE class has no such norms; train with layernorms=false"
        yield from one_of(read, "layernorms", (False, None), reason, level="wrong")
        reason = "vLLM's EAGLE class drops the bias of fc without a message; train with fusion_bias=false"
        yield from one_of(read, "fusion_bias", (False, None), reason, level="wrong")
        yield from as_wide_as_the_verifier(read, f"{LAYER}.hidden_size", facts)
        yield from decoder_layers(read, facts, extends_context=True)
        if facts is not None and facts.head_bias:  # model_executor/models/llama.py:LlamaForCausalLM.compute_logits
            key = "speculators_config.verifier.architectures"
            reason = "vLLM's EAGLE uses the verifier's head without its bias; train a draft that has its own head"
            yield Finding("wrong", key, facts.architectures, reason)

    def native_problems(self, native: Config, config: Config) -> Iterator[Finding]:
        """The class is chosen by the architecture: transformers_utils/configs/eagle.py:EAGLEConfig.__init__."""
        reason = "vLLM has no other EAGLE class for this draft; export again"
        yield from one_of(native, "model_type", ("llama",), reason)
        yield from one_of(native, "architectures", (["LlamaForCausalLM"], ["EagleLlamaForCausalLM"]), reason)
        yield from native_layers(native, self)
