"""DFlash: a block of tokens filled in at once from the verifier's states (arXiv:2602.06036), as vLLM computes it."""

from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.block_model import BlockModel
from speculators.models.block_settings import BlockSettings
from speculators.models.dflash.config import DFlashSpeculatorConfig
from speculators.nn.blocks import BlockDrafter, fill_blocks
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.rows import DraftOutput, LogitTerm, Rows


@SpeculatorModel.register("dflash")
class DFlashModel(BlockModel):
    """The shared layers, and the verifier's head."""

    config_class = DFlashSpeculatorConfig
    config: DFlashSpeculatorConfig

    def __init__(self, config: DFlashSpeculatorConfig) -> None:
        super().__init__(config)
        self.post_init()

    def is_causal(self, slides: bool) -> bool:
        """One flag for all layers: transformers_utils/configs/speculators/algos.py:update_dflash."""
        return not self.config.sliding_window_non_causal

    def forward(
        self,
        batch: Batch,
        states: VerifierStates,
        verifier: VerifierHead,
        context: TrainingContext[BlockSettings],
    ) -> DraftOutput:
        """Rows of every block."""
        term = LogitTerm(fill_blocks(self, batch, states, verifier), (self.head(verifier),))
        weights = self.row_weights(context.settings)
        return DraftOutput({"rows": Rows((term,), self.kept_D, scaled_as_verifier=True, row_weights=weights)})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> BlockDrafter:
        """One block for each round."""
        return BlockDrafter(self, verifier, batch_size)
