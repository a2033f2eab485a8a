"""What vLLM 0.32.0 does with drafts that read fused states of several of the verifier's layers. Torch-free.

Sources are `file:function`, files relative to the package `vllm`.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from speculators.export.config_rules import filled, lookup, one_of, required, written_out
from speculators.export.engine import Config, TensorRules
from speculators.export.engines.vllm_0_32_0 import (
    CUT,
    ENGINE,
    LAYER,
    VllmDraft,
    decoder_layers,
    verifier_layers,
    with_default_layers,
)
from speculators.format.finding import Finding
from speculators.verifier.facts import VerifierFacts

IDS, COUNT = "eagle_aux_hidden_state_layer_ids", f"{LAYER}.num_aux_hidden_states"
# The layers are built from a bare config, without the defaults of any model class:
# transformers_utils/configs/speculators/base.py:SpeculatorsConfig.__init__.
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "rms_norm_eps")


class FusedStatesDraft(VllmDraft):
    """The published folder as it is; model_executor/models/llama_eagle3.py and qwen3_eagle3.py."""

    method = "eagle3"
    # What it takes for a missing key: .../speculators/algos.py.
    norm_before_residual: ClassVar[bool]
    # Read for every algorithm, .../speculators/algos.py; embed_requires_grad has an effect through its tensor: an embedding
    # in the file is the draft's own.
    reads = (
        "transformer_layer_config",
        "speculators_config",
        "draft_vocab_size",
        "target_hidden_size",
        "norm_before_residual",
        "norm_before_fc",
        "embed_requires_grad",
        IDS,
    )
    stops_at = ("target_hidden_size",)
    misreads = (IDS,)  # sorted: model_executor/models/interfaces.py:EagleModelMixin._set_aux_hidden_state_layers
    # A missing linear layer stays as memory was and a norm at one, for load_weights returns no names; what a class stops
    # at is no weight: model_executor/models/llama_eagle3.py:Eagle3LlamaForCausalLM.load_weights.
    tensors = TensorRules(
        missing="refused",
        unknown="refused",
        unnoticed=("*.weight", "*.bias", "d2t"),
        dropped=("*.bias", "input_norm.weight"),
        skipped=("t2d",),
        cut=CUT,
    )

    def as_read(self, config: Config, facts: VerifierFacts | None) -> dict[str, Any]:
        """The defaults of transformers_utils/configs/speculators/algos.py, and of the layers' classes."""
        values = {
            "norm_before_residual": self.norm_before_residual,
            "draft_vocab_size": lookup(config, f"{LAYER}.vocab_size"),
            f"{LAYER}.model_type": "llama",
            f"{LAYER}.num_key_value_heads": lookup(config, f"{LAYER}.num_attention_heads"),
        }
        return with_default_layers(filled(config, values), IDS, facts)

    def problems(self, config: Config, read: Config, facts: VerifierFacts | None) -> Iterator[Finding]:
        """Two kinds of layers, and defaults that other readers of the format do not take."""
        kind = lookup(read, f"{LAYER}.model_type")
        yield from required(config, [f"{LAYER}.{key}" for key in SIZES], ENGINE)
        reason = "vLLM has such layers of the kinds llama and qwen3"  # .../speculators/algos.py
        yield from one_of(read, f"{LAYER}.model_type", ("llama", "qwen3"), reason)
        for path in ("quantization_config", f"{LAYER}.quantization_config"):
            yield from one_of(read, path, (None,), "tensors of this format are not quantized; remove it")
        # v1/spec_decode/llm_base_proposer.py:SpecDecodeBaseProposer._get_eagle3_use_aux_hidden_state_from_config
        reason = "vLLM prefers its keys to those of the format; remove it"
        yield from one_of(read, f"{LAYER}.eagle_config", (None, {}), reason, level="wrong")
        if self.norm_before_residual:  # the format's default is false
            yield from written_out(config, "norm_before_residual", True, "wrong", ENGINE)
        # Not wrong: the head has as many rows, or loading stops.
        yield from written_out(config, "draft_vocab_size", read.get("draft_vocab_size"), "invalid", ENGINE)
        if kind == "qwen3":  # transformers_utils/config.py:set_default_rope_theta
            theta, also = f"{LAYER}.rope_parameters.rope_theta", f"{LAYER}.rope_theta"
            yield from written_out(config, theta, 1000000, "wrong", ENGINE, also)
        yield from decoder_layers(read, facts, extends_context=True)
        # The llama class does not count the ids: model_executor/models/llama_eagle3.py:LlamaModel.__init__.
        assumed = 3 if kind == "llama" else None
        count = lookup(config, COUNT) or assumed
        yield from verifier_layers(config, read, facts, IDS, count)
        ids = config.get(IDS)
        if ids and isinstance(ids, list) and count is not None and len(ids) != count:
            reason = f"must be {len(ids)}, the layers in {IDS}: vllm assumes {assumed} otherwise"
            yield Finding("refused", COUNT, lookup(config, COUNT), reason)
