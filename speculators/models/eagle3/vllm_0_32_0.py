"""What vLLM 0.32.0 does with EAGLE-3 drafts. Torch-free.

Sources are `file:function`, files relative to the package `vllm`.
"""

from speculators.export.engines.vllm_0_32_0 import VllmDraft
from speculators.models.fused_states_vllm_0_32_0 import FusedStatesDraft


@VllmDraft.register("eagle3")
class Eagle3(FusedStatesDraft):
    """transformers_utils/configs/speculators/algos.py:update_eagle3."""

    norm_before_residual = True
    reads = (*FusedStatesDraft.reads, "fc_norm", "norm_output")
