"""What vLLM 0.32.0 does with DFlash drafts. Torch-free.

Sources are `file:function`, files relative to the package `vllm`.
"""

from collections.abc import Iterator
from typing import Any

from speculators.export.config_rules import filled, lookup, one_of, written_out
from speculators.export.engine import Config, TensorRules
from speculators.export.engines.vllm_0_32_0 import CUT, ENGINE, LAYER, VllmDraft
from speculators.format.finding import Finding
from speculators.models.block_vllm_0_32_0 import NON_CAUSAL, VllmBlocks, full_layers, other_blocks
from speculators.verifier.facts import VerifierFacts


@VllmDraft.register("dflash")
class DFlash(VllmBlocks):
    """transformers_utils/configs/speculators/algos.py:update_dflash."""

    method = "dflash"
    reads = (*VllmBlocks.reads, NON_CAUSAL)
    # A missing linear layer stays as memory was and a norm at one, for load_weights returns no names:
    # model_executor/models/qwen3_dflash.py:DFlashQwen3ForCausalLM.load_weights.
    tensors = TensorRules(missing="wrong", unknown="refused", dropped=("*.bias",), skipped=("t2d",), cut=CUT)

    def as_read(self, config: Config, facts: VerifierFacts | None) -> dict[str, Any]:
        """The defaults of update_dflash."""
        return filled(config, {NON_CAUSAL: True, "draft_vocab_size": lookup(config, f"{LAYER}.vocab_size")})

    def problems(self, config: Config, read: Config, facts: VerifierFacts | None) -> Iterator[Finding]:
        """One direction for all layers, and predictions at mask tokens alone."""
        yield from super().problems(config, read, facts)
        yield from written_out(config, NON_CAUSAL, True, "wrong", ENGINE)
        # v1/worker/gpu/spec_decode/dflash/speculator.py:DFlashSpeculator.__init__ stops; the V1 runner does not look.
        reason = "vLLM's DFlash predicts at mask tokens alone"
        yield from one_of(read, "sample_from_anchor", (False, None), reason, level="wrong")
        layers = lookup(read, f"{LAYER}.num_hidden_layers")
        if isinstance(layers, int) and layers > 1:
            # model_executor/models/qwen3_dflash.py:DFlashQwen3Model._normalize_context_k: the CPU's kernel takes one row.
            reason = "on a CPU, vLLM normalises the context's keys of every layer with the first one's weights"
            yield Finding("note", f"{LAYER}.num_hidden_layers", layers, reason)
        if read.get(NON_CAUSAL) is False and full_layers(read):
            # model_executor/models/qwen3_dflash.py:_dflash_layer_causal
            reason = "vLLM makes layers of full attention causal as well, which upstream's training does not"
            yield Finding("note", NON_CAUSAL, False, reason)
        yield from other_blocks(read, both_ways=bool(read.get(NON_CAUSAL)))
