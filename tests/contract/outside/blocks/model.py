"""A blocks draft's network, the anchors that it samples, and its drafter."""

from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from blocks.config import BlocksConfig
from blocks.settings import BlocksSettings
from speculators.data.row_plan import anchor_blocks
from speculators.losses.weights import dpace
from speculators.model import SpeculatorModel, TrainingContext
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Context, Predictions
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, LogitTerm, PackedTargets, RowResults, Rows, SequenceRows


@SpeculatorModel.register("blocks")
class BlocksModel(SpeculatorModel):
    """All tokens of a block from the anchor's state; the token before adds W2 W1 to the verifier's head's logits."""

    config_class = BlocksConfig
    config: BlocksConfig

    one_pass = True

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__(config)
        self.place = nn.Embedding(config.block_size, config.hidden_size)
        self.up = nn.Linear(config.hidden_size, config.width)
        self.down = nn.Linear(config.width, config.hidden_size)
        self.markov_w1 = nn.Embedding(config.vocab_size, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.vocab_size, bias=False)
        self.confidence = nn.Linear(config.hidden_size + config.markov_rank, 1)
        self.post_init()

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """The Markov term's."""
        return (self.markov_w2.weight,)

    def initialise(self, given: Initialisation) -> None:
        """Small random weights; the Markov term starts at almost nothing."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.05)

    @classmethod
    def plan_rows(cls, settings: BlocksSettings, sequence: PackedTargets, generator: Generator) -> SequenceRows:
        """Blocks after some of the anchors whose first slot is trained."""
        anchor_N = sequence.target_N - 1
        drawn = torch.randperm(len(anchor_N), generator=generator)[: settings.max_anchors].sort().values
        return anchor_blocks(sequence, anchor_N[drawn], settings.slots)

    def state(self, last_NH: Tensor, place_N: Tensor) -> Tensor:
        """[N, H] what the head reads, at places 0 ... block_size - 1 after verified states."""
        x_NH = last_NH.to(self.up.weight.dtype)
        return x_NH + self.down(torch.tanh(self.up(x_NH + self.place(place_N))))

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """Each row reads its anchor's state and the true token before the one that it predicts."""
        plan = batch.rows
        last_RH = states.last_BTH.flatten(0, 1)[plan.anchor_R.clamp_min(0)]
        hidden_RH = self.state(last_RH, plan.slot_R - 1)
        before_RI = self.markov_w1(batch.token_BT.flatten()[plan.target_R])
        terms = (LogitTerm(hidden_RH, (verifier.head_VH,)), LogitTerm(before_RI, (self.markov_w2.weight,)))
        logit_R = self.confidence(torch.cat((hidden_RH, before_RI), dim=-1)).squeeze(-1)

        def confidence(results: RowResults) -> Tensor:
            target_R = results.overlap_R.to(logit_R.dtype)
            return results.mean(F.binary_cross_entropy_with_logits(logit_R, target_R, reduction="none"))

        weights = partial(dpace, alpha=context.settings.dpace_alpha)
        rows = Rows(terms, scaled_as_verifier=True, row_weights=weights)
        return DraftOutput({"rows": rows}, {"confidence": confidence})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> "BlocksDrafter":
        """Token by token, for each is told the one before."""
        return BlocksDrafter(self, verifier)


class BlocksDrafter:
    """Computes a block's states at once and adds each node's Markov term when its token is known."""

    def __init__(self, model: BlocksModel, verifier: VerifierHead) -> None:
        self.model, self.verifier = model, verifier

    def extend(self, context: Context, depth: int) -> Predictions:
        """States of the whole block; logits of its first token."""
        assert context.states is not None
        last_BH = context.states.last_BTH[:, -1]
        self.level = 0
        self.states_BH = [
            self.model.state(last_BH, torch.full((len(last_BH),), place, device=last_BH.device))
            for place in range(depth)
        ]
        return self._logits(context.next_token_BT[:, -1:])

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        """The next place's logits after each node's token."""
        self.level += 1
        return self._logits(token_BN)

    def select(self, rows: Tensor) -> None:
        """Nothing is remembered between rounds."""

    def _logits(self, before_BN: Tensor) -> Predictions:
        head_BV = self.verifier.logits(self.states_BH[self.level].to(self.verifier.head_VH.dtype))
        return Predictions(head_BV.unsqueeze(1) + self.model.markov_w2(self.model.markov_w1(before_BN)))
