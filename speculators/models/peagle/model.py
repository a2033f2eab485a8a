"""P-EAGLE: EAGLE-3's layers, in which masked places draft all tokens in one pass (arXiv:2602.01469), as vLLM computes it."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from speculators.data.row_plan import conditional_drop_token
from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.fused_states_model import FusedStatesModel
from speculators.models.peagle.config import PEagleSpeculatorConfig
from speculators.models.peagle.draft import ParallelDrafter
from speculators.models.peagle.settings import PEagleSettings
from speculators.nn.attention import masked
from speculators.nn.masked_chains import MaskedPlaces, masked_chains
from speculators.nn.precision import product_dtype
from speculators.nn.unroll import Step
from speculators.nn.unrolled_attention import unrolled
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, PackedTargets, Rows, SequenceRows


@SpeculatorModel.register("peagle")
class PEagleSpeculator(FusedStatesModel):
    """Slot 1 is EAGLE-3's first step; each further slot reads a mask token and one trained state instead of the verifier's."""

    config_class = PEagleSpeculatorConfig
    config: PEagleSpeculatorConfig

    one_pass = True

    def __init__(self, config: PEagleSpeculatorConfig) -> None:
        super().__init__(config)
        self.mask_hidden = nn.Parameter(torch.empty(1, 1, self.fc.in_features))
        self.post_init()

    @torch.no_grad()
    def initialise(self, given: Initialisation) -> None:
        """As EAGLE-3; the state of masked places is drawn from a standard normal distribution, as upstream does."""
        super().initialise(given)
        self.mask_hidden.normal_()

    @classmethod
    def plan_rows(cls, settings: PEagleSettings, sequence: PackedTargets, generator: Generator) -> SequenceRows:
        """Nested chains that thin out from slot to slot."""
        return conditional_drop_token(
            sequence,
            settings.num_depths,
            settings.down_sample_ratio,
            settings.down_sample_ratio_min,
            generator,
            settings.max_anchors,
            fewer=1,
        )

    def mask_inputs(self, verifier: VerifierHead) -> tuple[Tensor, Tensor]:
        """[H] embedding and [H] fused state of every masked place."""
        if self.config.mask_token_id is None:
            raise ValueError("mask_token_id: a draft of several tokens cannot be computed without it")
        token = torch.full((), self.config.mask_token_id, device=self.mask_hidden.device)
        return self.embed(token, verifier), self.fuse(self.mask_hidden)[0, 0]

    def context(self, batch: Batch, states: VerifierStates, verifier: VerifierHead) -> Step:
        """Slot 1 of every position: each sees its document up to itself, and its keys are what later slots see of it."""
        fed_BTH = self.features(states)
        next_BT = nn.functional.pad(batch.token_BT[:, 1:], (0, 1))
        attend = unrolled(batch, 1, product_dtype(fed_BTH))
        nothing = [() for _ in self.layers]
        return self.step(self.embed(next_BT, verifier), fed_BTH, batch.position_BT, nothing, attend)

    def chains(self, base: Step, batch: Batch, verifier: VerifierHead) -> Tensor:
        """[R', H] outputs of the rows of slot 2 and further, in the plan's order."""
        embed_H, fed_H = self.mask_inputs(verifier)

        def compute(places: MaskedPlaces) -> Tensor:
            past = [(places.text(*of_text),) for (of_text,) in base.seen]
            shape = (*places.position_1C.shape, -1)
            attend = masked(places.mask_11CL, places.position_1C, places.key_1L)
            step = self.step(embed_H.expand(shape), fed_H.expand(shape), places.position_1C, past, attend)
            return step.output_BTH[0]

        return masked_chains(batch, 0, product_dtype(fed_H), fed_H.new_empty(0, len(fed_H)), compute)

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """One pass over all positions gives slot 1; chains of masked places follow some of them."""
        base = self.context(batch, states, verifier)
        anchor_R = batch.rows.of_slot(batch.rows.anchor_R, 1).clamp_min(0)
        output_RH = torch.cat((base.output_BTH.flatten(0, 1)[anchor_R], self.chains(base, batch, verifier)))
        return DraftOutput({"rows": Rows.of(output_RH, *self.heads, kept_D=self.kept_D)})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> ParallelDrafter:
        """All slots in one pass after the last verified state."""
        return ParallelDrafter(self, verifier, batch_size)
