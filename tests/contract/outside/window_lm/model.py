"""The window LM, in training and in drafting."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speculators.model import SpeculatorModel, TrainingContext
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Context, Predictions
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, Rows
from window_lm.config import WindowLMConfig


@SpeculatorModel.register("window_lm")
class WindowLM(SpeculatorModel):
    """The next token from the last W tokens."""

    config_class = WindowLMConfig
    config: WindowLMConfig
    reads_states: ClassVar[bool] = False

    def __init__(self, config: WindowLMConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size + 1, config.embedding_size)
        self.hidden = nn.Linear(config.window * config.embedding_size, config.width)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """The language model's own head."""
        return (self.lm_head.weight,)

    def initialise(self, given: Initialisation) -> None:
        """Small random weights; nothing is the verifier's."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)

    def state(self, token_NW: Tensor) -> Tensor:
        """What the head reads after the last of W tokens; `vocab_size` stands for places before the text."""
        return torch.tanh(self.hidden(self.embed(token_NW).flatten(-2)))

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """A row reads its document's true tokens up to its target: those after the anchor too, as drafting does."""
        target_R = batch.rows.target_R
        back_W = torch.arange(self.config.window - 1, -1, -1, device=target_R.device)
        inside_RW = batch.position_BT.flatten()[target_R].unsqueeze(1) >= back_W
        token_RW = batch.token_BT.flatten()[(target_R.unsqueeze(1) - back_W).clamp_min(0)]
        token_RW = token_RW.where(inside_RW, torch.full_like(token_RW, self.config.vocab_size))
        return DraftOutput({"rows": Rows.of(self.state(token_RW), self.lm_head.weight)})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> "WindowLMDrafter":
        """Each token from the tokens before it."""
        return WindowLMDrafter(self, batch_size)


class WindowLMDrafter:
    """Remembers the last W tokens of each text; a node's window is its parent's, moved by its token."""

    def __init__(self, model: WindowLM, batch_size: int) -> None:
        self.model, device = model, model.lm_head.weight.device
        self.text_BW = torch.full((batch_size, model.config.window), model.config.vocab_size, device=device)
        self.window_BNW = self.text_BW.unsqueeze(1)

    def select(self, rows: Tensor) -> None:
        """Keep only some texts."""
        self.text_BW = self.text_BW[rows]

    def extend(self, context: Context, depth: int) -> Predictions:
        """Append the tokens at the new positions; the one just sampled is the root's, for it is not verified yet."""
        W, count_B1 = self.text_BW.shape[1], context.valid_BT.sum(1, keepdim=True)
        both_BL = torch.cat((self.text_BW, context.token_BT), dim=1)
        # From the right: the new tokens, then the old ones beyond the padding between them.
        back_W = torch.arange(W - 1, -1, -1, device=both_BL.device)
        gap_B1 = context.token_BT.shape[1] - count_B1
        place_BW = both_BL.shape[1] - 1 - back_W - gap_B1 * (back_W >= count_B1)
        self.text_BW = both_BL.gather(1, place_BW)
        self.window_BNW = self._moved(self.text_BW.unsqueeze(1), context.next_token_BT[:, -1:])
        return self._predict()

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        """The parents' windows, moved by the nodes' tokens."""
        parents_BNW = self.window_BNW.gather(1, parent_BN.unsqueeze(-1).expand(-1, -1, self.text_BW.shape[1]))
        self.window_BNW = self._moved(parents_BNW, token_BN)
        return self._predict()

    def _moved(self, window_BNW: Tensor, token_BN: Tensor) -> Tensor:
        return torch.cat((window_BNW[..., 1:], token_BN.unsqueeze(-1)), dim=-1)

    def _predict(self) -> Predictions:
        return Predictions(self.model.lm_head(self.model.state(self.window_BNW)))
