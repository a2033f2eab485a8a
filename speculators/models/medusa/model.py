"""Medusa: parallel heads on the verifier's last state, no recurrence (Cai et al. 2024, arXiv:2401.10774)."""

from typing import Any

import torch
from torch import Tensor, nn

from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.medusa.config import MedusaSpeculatorConfig
from speculators.models.medusa.draft import MedusaDrafter
from speculators.nn.vocabulary import most_frequent
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, Rows


class MedusaHead(nn.Module):
    """Residual blocks x + SiLU(W x), without the vocabulary head."""

    def __init__(self, hidden_size: int, num_hidden_layers: int, bias: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size, bias=bias) for _ in range(num_hidden_layers))

    def forward(self, hidden_NH: Tensor) -> Tensor:
        hidden_NH = hidden_NH.to(self.layers[0].get_parameter("weight").dtype)  # the verifier's may be half of it
        for layer in self.layers:
            hidden_NH = hidden_NH + nn.functional.silu(layer(hidden_NH))
        return hidden_NH


@SpeculatorModel.register("medusa")
class MedusaModel(SpeculatorModel):
    """One stack of blocks per head, with one vocabulary head each or one for all."""

    config_class = MedusaSpeculatorConfig
    config: MedusaSpeculatorConfig

    same_at_any_depth = True
    one_pass = True

    token_map: Tensor

    def __init__(self, config: MedusaSpeculatorConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(
            MedusaHead(config.hidden_size, config.num_hidden_layers, config.medusa_fc_bias)
            for _ in range(config.num_heads)
        )
        rows = config.truncated_vocab_size or config.vocab_size
        if config.original_lm_head:
            self.lm_head = nn.Linear(config.hidden_size, rows, bias=False)
            if rows < config.vocab_size:
                # Verifier id of each row: absolute, unlike d2t's offsets.
                self.register_buffer("token_map", torch.arange(rows))
        else:
            self.lm_heads = nn.ModuleList(
                nn.Linear(config.hidden_size, rows, bias=False) for _ in range(config.num_heads)
            )
        self.post_init()

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """[D, H] vocabulary heads: one for all, or one a slot."""
        if self.config.original_lm_head:
            return (self.lm_head.weight,)
        return tuple(head.get_parameter("weight") for head in self.lm_heads)

    @property
    def kept_D(self) -> Tensor | None:
        """Verifier ids of a truncated head's rows."""
        return self.token_map if self.config.truncated_vocab_size not in (None, self.config.vocab_size) else None

    @torch.no_grad()
    def initialise(self, given: Initialisation) -> None:
        """Start with the verifier's outputs: zero blocks (the identity), copies of its head (paper, section 2.1.1)."""
        for parameter in self.blocks.parameters():
            nn.init.zeros_(parameter)
        if self.kept_D is not None:
            self.token_map.copy_(most_frequent(given.token_count_V, len(self.token_map)))
        head_VH = given.verifier.head_VH
        for head in self.heads:
            head.copy_(head_VH if self.kept_D is None else head_VH[self.kept_D])

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """Rows of every head: slot s of a target reads the verifier's state s positions before it."""
        last_PH, anchor_R = states.last_BTH.flatten(0, 1), batch.rows.anchor_R.clamp_min(0)
        hidden_RH = torch.cat(
            [block(last_PH[batch.rows.of_slot(anchor_R, slot)]) for slot, block in enumerate(self.blocks, start=1)]
        )
        return DraftOutput({"rows": Rows.of(hidden_RH, *self.heads, kept_D=self.kept_D)})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> MedusaDrafter:
        """Heads applied side by side to the last verified state."""
        return MedusaDrafter(self.blocks, self.heads, self.kept_D, self.config.vocab_size)
