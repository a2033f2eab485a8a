"""MLP speculator: a recurrence of small MLPs without attention (Wertheimer et al. 2024, arXiv:2404.19124)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.mlp.config import MLPSpeculatorConfig
from speculators.models.mlp.draft import MLPDrafter
from speculators.nn.start import start_weights
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, Rows

EPS = 1e-6  # of all norms, in IBM's code and in vLLM's


class StageNorm(nn.Module):
    """x / rms(x) * weight + bias."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, EPS) + self.bias


@SpeculatorModel.register("mlp")
class MLPSpeculator(SpeculatorModel):
    """Each stage projects the state before it, adds the embedding of the token before, and gives the next token's logits."""

    config_class = MLPSpeculatorConfig
    config: MLPSpeculatorConfig

    def __init__(self, config: MLPSpeculatorConfig) -> None:
        super().__init__(config)
        stages, width = config.n_predict, config.inner_dim or config.emb_dim
        own, projections = (1, 2) if config.tie_weights else (stages, stages)
        self.emb = nn.ModuleList(nn.Embedding(config.vocab_size, width) for _ in range(own))
        self.proj = nn.ModuleList(
            nn.Linear(width if i else config.emb_dim, width, bias=False) for i in range(projections)
        )
        self.ln = nn.ModuleList(StageNorm(width) for _ in range(own))
        self.head = nn.ModuleList(nn.Linear(width, config.vocab_size, bias=False) for _ in range(own))
        # The share of the verifier's state in the variance falls to one half over all stages; embeddings start with a
        # variance of 1 / width, and states have one of about 1 / 2 (the code of the paper).
        state_weight = 0.5 ** (0.5 / stages)
        self.embedding_scale = ((1 - state_weight**2) * width / 2) ** 0.5 / state_weight
        self.post_init()

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """[V, width] vocabulary heads: one for all stages, or one a stage."""
        return tuple(head.get_parameter("weight") for head in self.head)

    @torch.no_grad()
    def initialise(self, given: Initialisation) -> None:
        """Normal weights of variance 1 / width, as the paper's code starts; nothing is the verifier's."""
        start_weights(self, self.proj[0].get_parameter("weight").shape[0] ** -0.5)
        for norm in self.ln:
            norm.get_parameter("weight").fill_(1.0)
            norm.get_parameter("bias").zero_()

    def first_state(self, last: Tensor) -> Tensor:
        """The verifier's state as the first stage reads it."""
        last = last.to(self.heads[0].dtype)  # the verifier's may be half of it
        return F.rms_norm(last, last.shape[-1:], eps=EPS) / 2**0.5 if self.config.scale_input else last

    def stage(self, number: int, state: Tensor, token: Tensor) -> Tensor:
        """One stage: what its head reads and the next stage goes on from.

        Args:
            number: from 0.
            state: [..., emb_dim] before the first stage, else [..., width].
            token: int64 [...], the token after the position of `state`.
        """
        own = min(number, len(self.emb) - 1)
        mixed = self.proj[min(number, len(self.proj) - 1)](state) + self.embedding_scale * self.emb[own](token)
        return F.gelu(self.ln[own](mixed))

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """Rows of every stage: slot s of anchor a reads the verifier's state at a and the tokens a + 1 ... a + s."""
        state_BTH, anchor_R = self.first_state(states.last_BTH), batch.rows.anchor_R.clamp_min(0)
        hidden = []
        for slot in range(1, batch.rows.slots + 1):
            # Past the end of a row the input is token 0: no target has such an anchor.
            token_BT = F.pad(batch.token_BT[:, slot:], (0, slot))
            state_BTH = self.stage(slot - 1, state_BTH, token_BT)
            hidden.append(state_BTH.flatten(0, 1)[batch.rows.of_slot(anchor_R, slot)])
        return DraftOutput({"rows": Rows.of(torch.cat(hidden), *self.heads)})

    def logits(self, number: int, state: Tensor) -> Tensor:
        """[..., V] of the token after a stage's input token."""
        return self.head[min(number, len(self.head) - 1)](state)

    def drafter(self, verifier: VerifierHead, batch_size: int) -> MLPDrafter:
        """A stage for each level."""
        return MLPDrafter(self)
