"""The sketch's networks, in training and in drafting."""

from typing import Any

import torch
from torch import Tensor, nn

from sketch.config import SketchConfig
from speculators.model import SpeculatorModel, TrainingContext
from speculators.nn.slot_drafter import SlotDrafter
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Context
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, Rows


@SpeculatorModel.register("sketch")
class SketchModel(SpeculatorModel):
    """x + B tanh(A x) for each slot, before the verifier's head."""

    config_class = SketchConfig
    config: SketchConfig

    one_pass = True

    def __init__(self, config: SketchConfig) -> None:
        super().__init__(config)
        size, width = config.hidden_size, config.width
        self.up = nn.ModuleList(nn.Linear(size, width) for _ in range(config.num_slots))
        self.down = nn.ModuleList(nn.Linear(width, size) for _ in range(config.num_slots))
        self.post_init()

    def initialise(self, given: Initialisation) -> None:
        """Small random weights."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.05)

    def slot(self, number: int, last_NH: Tensor) -> Tensor:
        """The state that slot `number`, from 1, foresees."""
        last_NH = last_NH.to(self.up[0].weight.dtype)
        return last_NH + self.down[number - 1](torch.tanh(self.up[number - 1](last_NH)))

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """Slot s of a target reads the verifier's state s positions before it."""
        last_PH, anchor_R = states.last_BTH.flatten(0, 1), batch.rows.anchor_R.clamp_min(0)
        slots = range(1, self.config.num_slots + 1)
        hidden_RH = torch.cat([self.slot(s, last_PH[batch.rows.of_slot(anchor_R, s)]) for s in slots])
        return DraftOutput({"rows": Rows.of(hidden_RH, verifier.head_VH, scaled_as_verifier=True)})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> "SketchDrafter":
        """All slots from the last verified state."""
        return SketchDrafter(self, verifier)


class SketchDrafter(SlotDrafter):
    """Drafts without a memory."""

    def __init__(self, model: SketchModel, verifier: VerifierHead) -> None:
        super().__init__()
        self.model, self.verifier = model, verifier

    def read(self, context: Context, depth: int) -> None:
        """Keep the last verified state."""
        assert context.states is not None
        self.last_BH = context.states.last_BTH[:, -1]

    def slot(self, level: int) -> Tensor:
        """Level k comes from network k."""
        state_BH = self.model.slot(level + 1, self.last_BH)
        return self.verifier.logits(state_BH.to(self.verifier.head_VH.dtype))
