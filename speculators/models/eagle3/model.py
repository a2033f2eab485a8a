"""EAGLE-3: a recurrent draft on several of the verifier's layers (Li et al. 2025, arXiv:2503.01840), as vLLM computes it."""

from typing import Any

from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.eagle3.config import Eagle3SpeculatorConfig
from speculators.models.fused_states_model import FusedStatesModel
from speculators.nn.recurrent_drafter import RecurrentDrafter
from speculators.nn.unroll import unroll
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.rows import DraftOutput, Rows


@SpeculatorModel.register("eagle3")
class Eagle3Speculator(FusedStatesModel):
    """Fused verifier layers and the next token's embedding, through decoder layers fed with their own output."""

    config_class = Eagle3SpeculatorConfig
    config: Eagle3SpeculatorConfig

    same_at_any_depth = True

    def __init__(self, config: Eagle3SpeculatorConfig) -> None:
        super().__init__(config)
        self.post_init()

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """Rows of all slots, unrolled as in `unroll`."""
        output_RH = unroll(self, batch, states, verifier)
        return DraftOutput({"rows": Rows.of(output_RH, *self.heads, kept_D=self.kept_D)})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> RecurrentDrafter:
        """Each token is drafted from the state of the token before it."""
        return RecurrentDrafter(self, verifier, batch_size)
