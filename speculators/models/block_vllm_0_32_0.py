"""What vLLM 0.32.0 does with drafts of blocks. Torch-free.

Sources are `file:function`, files relative to the package `vllm`.
"""

from collections.abc import Iterator
from typing import ClassVar

from speculators.export.config_rules import lookup, one_of, required, written_out
from speculators.export.engine import Config
from speculators.export.engines.vllm_0_32_0 import ENGINE, LAYER, TOKENS, VllmDraft, decoder_layers, verifier_layers
from speculators.format.finding import Finding
from speculators.verifier.facts import VerifierFacts

IDS, MASK, NON_CAUSAL = "aux_hidden_state_layer_ids", "mask_token_id", "sliding_window_non_causal"
# The layers are built from a bare config, without the defaults of any model class:
# transformers_utils/configs/speculators/base.py:SpeculatorsConfig.__init__.
SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "rms_norm_eps", "hidden_act", "max_position_embeddings"),
)


class VllmBlocks(VllmDraft):
    """The published folder as it is; model_executor/models/qwen3_dflash.py."""

    # The size of a block has its effect through the number of tokens, of which vLLM makes it (`other_blocks`).
    reads = (
        "transformer_layer_config",
        "speculators_config",
        "draft_vocab_size",
        "target_hidden_size",
        "sample_from_anchor",
        "block_size",
        IDS,
        MASK,
    )
    stops_at = ("target_hidden_size", MASK)
    misreads = (IDS,)  # sorted: model_executor/models/interfaces.py:EagleModelMixin._set_aux_hidden_state_layers
    # Whether layers with and without a window can stand in one draft: config/vllm.py:VllmConfig._dflash_needs_multi_kv_group.
    mixed_attention: ClassVar[bool] = False

    def problems(self, config: Config, read: Config, facts: VerifierFacts | None) -> Iterator[Finding]:
        """What has no default, and what means something else than in the format."""
        yield from required(config, [*(f"{LAYER}.{key}" for key in SIZES), IDS, MASK], ENGINE)
        for path in ("quantization_config", f"{LAYER}.quantization_config"):
            yield from one_of(read, path, (None,), "the tensors of this format are not quantized; take it out")
        yield from written_out(config, "draft_vocab_size", read.get("draft_vocab_size"), "invalid", ENGINE)
        # transformers_utils/config.py:set_default_rope_theta
        theta, also = f"{LAYER}.rope_parameters.rope_theta", f"{LAYER}.rope_theta"
        yield from written_out(config, theta, 1000000, "wrong", ENGINE, also)
        yield from decoder_layers(read, facts, extends_context=False, mixed_attention=self.mixed_attention)
        if config.get(IDS):
            yield from verifier_layers(config, read, facts, IDS)
        elif config.get(IDS) is not None:
            yield Finding("refused", IDS, config[IDS], "must name the layers that fc joins")


def other_blocks(read: Config, both_ways: bool) -> Iterator[Finding]:
    """Blocks of another size than were trained: v1/spec_decode/dflash.py:DFlashProposer.set_inputs_first_pass.

    Args:
        read: the config as vLLM reads it.
        both_ways: an input of a block sees those after it, so that fewer of them are different inputs.
    """
    tokens, size = lookup(read, TOKENS), read.get("block_size")
    if not isinstance(tokens, int) or not isinstance(size, int):
        return
    inputs = tokens if read.get("sample_from_anchor") else tokens + 1
    if inputs > size or (inputs < size and both_ways):
        reason = f"a block has {inputs} inputs then, where the draft was trained on {size}"
        yield Finding("note", TOKENS, tokens, reason)


def full_layers(read: Config) -> bool:
    """Whether some layer has full attention."""
    kinds = lookup(read, f"{LAYER}.layer_types")
    return not isinstance(kinds, list) or "full_attention" in kinds
