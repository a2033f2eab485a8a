"""What vLLM 0.32.0 does with P-EAGLE drafts: EAGLE-3 with `parallel_drafting`, in its V1 model runner. Torch-free.

Sources are `file:function`, files relative to the package `vllm`.
"""

from collections.abc import Iterator

from speculators.export.config_rules import one_of, required
from speculators.export.engine import Config
from speculators.export.engines.vllm_0_32_0 import ENGINE, VllmDraft
from speculators.format.finding import Finding
from speculators.models.fused_states_vllm_0_32_0 import FusedStatesDraft
from speculators.verifier.facts import VerifierFacts


@VllmDraft.register("peagle")
class PEagle(FusedStatesDraft):
    """transformers_utils/configs/speculators/algos.py:update_peagle."""

    norm_before_residual = False
    reads = (*FusedStatesDraft.reads, "mask_token_id")
    stops_at = (*FusedStatesDraft.stops_at, "mask_token_id")

    def parallel(self, config: Config) -> bool:
        """Always."""
        return True

    def problems(self, config: Config, read: Config, facts: VerifierFacts | None) -> Iterator[Finding]:
        """EAGLE-3's, a mask token, and a norm that such drafts have not."""
        yield from super().problems(config, read, facts)
        yield from required(config, ["mask_token_id"], ENGINE)
        reason = "vLLM's P-EAGLE has no such norms; train with fc_norm=false"
        yield from one_of(read, "fc_norm", (False, None), reason)
