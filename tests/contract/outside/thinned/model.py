"""A thinned draft's networks, the rows that it samples, and its drafter."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from speculators.data.row_plan import dense_rows
from speculators.model import SpeculatorModel, TrainingContext
from speculators.nn.noise import uniform_noise
from speculators.nn.slot_drafter import SlotDrafter
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Context
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, PackedTargets, Rows, SequenceRows
from thinned.config import ThinnedConfig
from thinned.settings import ThinnedSettings


@SpeculatorModel.register("thinned")
class ThinnedModel(SpeculatorModel):
    """x + B tanh(A x) for each slot, before the verifier's head."""

    config_class = ThinnedConfig
    config: ThinnedConfig

    one_pass = True

    def __init__(self, config: ThinnedConfig) -> None:
        super().__init__(config)
        size, width = config.hidden_size, config.width
        self.up = nn.ModuleList(nn.Linear(size, width) for _ in range(config.num_slots))
        self.down = nn.ModuleList(nn.Linear(width, size) for _ in range(config.num_slots))
        self.post_init()

    def initialise(self, given: Initialisation) -> None:
        """Small random weights."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.05)

    @classmethod
    def plan_rows(cls, settings: ThinnedSettings, sequence: PackedTargets, generator: Generator) -> SequenceRows:
        """Slot 1 of every target; each further slot of an anchor at the keep rate, if it has the slot before."""
        every = dense_rows(sequence, settings.slots)
        # A chain ends for good: row (a, s) needs the rows of a up to s.
        kept_R = torch.ones_like(every.valid_R)
        for slot in range(1, settings.slots + 1):
            ended_P = torch.rand(len(sequence.position_T), generator=generator) >= settings.keep_rate
            kept_R &= (every.slot_R <= slot) | ~ended_P[every.anchor_R.clamp_min(0)]
        kept_R &= every.valid_R
        return SequenceRows(
            *(x[kept_R] for x in (every.anchor_R, every.slot_R, every.group_R, every.valid_R)), every.slots
        )

    def slot(self, number: int, last_NH: Tensor) -> Tensor:
        """The state that slot `number`, from 1, foresees."""
        last_NH = last_NH.to(self.up[0].get_parameter("weight").dtype)
        return last_NH + self.down[number - 1](torch.tanh(self.up[number - 1](last_NH)))

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """Each row reads the verifier's state at its anchor."""
        last_BTH = states.last_BTH
        if self.training:
            last_BTH = last_BTH + context.settings.state_noise * uniform_noise(batch, last_BTH)
        last_RH = last_BTH.flatten(0, 1)[batch.rows.anchor_R.clamp_min(0)]
        slots = range(1, self.config.num_slots + 1)
        hidden_RH = torch.cat([self.slot(s, batch.rows.of_slot(last_RH, s)) for s in slots])
        return DraftOutput({"rows": Rows.of(hidden_RH, verifier.head_VH, scaled_as_verifier=True)})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> "ThinnedDrafter":
        """All slots from the last verified state."""
        return ThinnedDrafter(self, verifier)


class ThinnedDrafter(SlotDrafter):
    """Drafts without a memory."""

    def __init__(self, model: ThinnedModel, verifier: VerifierHead) -> None:
        super().__init__()
        self.model, self.verifier = model, verifier

    def read(self, context: Context, depth: int) -> None:
        """Keep the last verified state."""
        assert context.states is not None
        self.last_BH = context.states.last_BTH[:, -1]

    def slot(self, level: int) -> Tensor:
        """Level k comes from network k + 1."""
        state_BH = self.model.slot(level + 1, self.last_BH)
        return self.verifier.logits(state_BH.to(self.verifier.head_VH.dtype))
