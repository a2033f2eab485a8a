"""What vLLM 0.32.0 does with DSpark drafts. Torch-free.

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

FLAGS = ("enable_confidence_head", "confidence_head_with_markov")


@VllmDraft.register("dspark")
class DSpark(VllmBlocks):
    """transformers_utils/configs/speculators/algos.py:update_dspark; model_executor/models/qwen3_dspark.py."""

    method = "dspark"
    reads = (*VllmBlocks.reads, "markov_rank", "markov_head_type", *FLAGS)
    stops_at = (*VllmBlocks.stops_at, "markov_rank")
    # In the V2 model runner each group of layers has its cache: v1/worker/gpu/spec_decode/dflash/speculator.py:set_attn.
    mixed_attention = True
    confident = True  # config/speculative.py:SpeculativeConfig.enable_adaptive_verification
    # Only what a reduced vocabulary needs is missed: model_executor/models/qwen3_dspark.py:Qwen3DSparkForCausalLM.load_weights.
    tensors = TensorRules(
        missing="refused",
        unknown="refused",
        unnoticed=("fc.*", "norm.*", "hidden_norm.*", "layers.*", "markov_head.*", "confidence_head.*"),
        dropped=("*.bias", "confidence_head.proj.weight"),  # the latter of a config that has no such head
        skipped=("t2d",),
        cut=CUT,
    )

    def as_read(self, config: Config, facts: VerifierFacts | None) -> dict[str, Any]:
        """The defaults of update_dspark and of the model's class."""
        values = {"sample_from_anchor": False, "draft_vocab_size": lookup(config, f"{LAYER}.vocab_size")}
        return filled(config, {**values, **dict.fromkeys(FLAGS, False)})

    def problems(self, config: Config, read: Config, facts: VerifierFacts | None) -> Iterator[Finding]:
        """One kind of Markov head, which there must be."""
        yield from super().problems(config, read, facts)
        yield from written_out(config, "sample_from_anchor", False, "wrong", ENGINE)
        for flag in FLAGS:
            yield from written_out(config, flag, False, "wrong", ENGINE)
        rank = read.get("markov_rank")
        if not isinstance(rank, int) or rank < 1:
            yield Finding("refused", "markov_rank", rank, "must be above 0: vLLM's DSpark always has a Markov head")
        reason = "vLLM's DSpark has no other Markov head, and computes this one for every draft"
        yield from one_of(read, "markov_head_type", ("vanilla", None), reason, level="wrong")
        # config/vllm.py:VllmConfig: no DSpark in the V1 model runner, the CPU's only one.
        reason = "vLLM serves DSpark in its V2 model runner, on GPUs alone"
        yield Finding("note", "speculators_model_type", "dspark", reason)
        if read.get(NON_CAUSAL) is True and lookup(read, f"{LAYER}.sliding_window") is not None:
            reason = "vLLM does not read it: inputs see nothing of those after them in layers with a window"
            yield Finding("note", NON_CAUSAL, True, reason)
        yield from other_blocks(read, both_ways=full_layers(read))
