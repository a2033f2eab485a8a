"""A recurrent draft, unrolled: in training over all anchors at once, in drafting over one sequence end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from speculators.nn.attention import KeyValue
from speculators.nn.precision import product_dtype
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Choose, Context
from speculators.protocols.hidden_states import VerifierStates


class Step(NamedTuple):
    """One step of a recurrent draft: what the next step is fed, what the head reads, and each layer's keys and values."""

    feedback_BTH: Tensor
    output_BTH: Tensor
    seen: list[KeyValue]


class Recurrent(Protocol):
    """What a draft must offer to be unrolled."""

    def features(self, states: VerifierStates) -> Tensor:
        """[B, T, H] what the first step is fed at each verified position."""
        ...

    def step(
        self,
        embed_BTH: Tensor,
        fed_BTH: Tensor,
        position_BT: Tensor,
        past: Sequence[KeyValue] | None,
        mask_B1TL: Tensor,
    ) -> Step:
        """One pass through the draft's layers; `mask_B1TL` as in `Attention`."""
        ...

    def embed(self, token_BT: Tensor) -> Tensor:
        """Token embeddings."""
        ...

    def logits(self, output_BH: Tensor) -> Tensor:
        """[B, V] logits over the verifier's vocabulary, -inf where the draft has no such token."""
        ...


def unroll(draft: Recurrent, batch: Batch, states: VerifierStates) -> Tensor:
    """Training-time test (Li et al. 2025, arXiv:2503.01840): slots fed by the slots before them, for every anchor.

    At slot s, anchor a is fed token a + s and its own feedback of slot s - 1, at position a + s - 1. It sees the first
    slot's keys of its document up to a, which drafting makes from verified states, and its own keys of later slots.

    Returns:
        output_RH: what the head reads, for every row of `batch.rows`.
    """
    B, T = batch.token_BT.shape
    same_BTT = batch.document_BT.unsqueeze(2) == batch.document_BT.unsqueeze(1)
    slots, anchor_R = batch.rows.slots, batch.rows.anchor_R.clamp_min(0)
    own_BTL = torch.eye(T, dtype=torch.bool, device=same_BTT.device).repeat(B, 1, slots - 1)
    sees_BTL = torch.cat((same_BTT & torch.ones_like(same_BTT[0]).tril(), own_BTL), dim=-1)
    fed_BTH, past = draft.features(states), None
    # One sum for all slots: from a mask of truth values, attention would make and keep one of its own at every slot.
    sum_B1TL = torch.zeros_like(sees_BTL, dtype=product_dtype(fed_BTH)).masked_fill_(~sees_BTL, -torch.inf).unsqueeze(1)
    outputs = []
    for slot in range(1, slots + 1):
        # The end of a row is fed token 0 there: no target has such an anchor.
        token_BT = torch.nn.functional.pad(batch.token_BT[:, slot:], (0, slot))
        fed_BTH, output_BTH, past = draft.step(
            draft.embed(token_BT), fed_BTH, batch.position_BT + slot - 1, past, sum_B1TL[..., : slot * T]
        )
        outputs.append(output_BTH.flatten(0, 1)[batch.rows.of_slot(anchor_R, slot)])
    return torch.cat(outputs)


@dataclass
class ChainState:
    """What a recurrent draft remembers of verified positions; holes of shorter sequences are masked, not closed."""

    valid_BL: Tensor
    layers: list[KeyValue] = field(default_factory=list)


class ChainDrafter:
    """Drafts one token after another; implements `speculators.protocols.drafter.Drafter`."""

    def __init__(self, draft: Recurrent, device: torch.device) -> None:
        self.draft, self.device = draft, device

    def start(self, batch_size: int) -> ChainState:
        """No verified position yet."""
        return ChainState(torch.zeros(batch_size, 0, dtype=torch.bool, device=self.device))

    def select(self, state: ChainState, rows: Tensor) -> ChainState:
        """The state of only the sequences `rows`."""
        return ChainState(state.valid_BL[rows], [KeyValue(k[rows], v[rows]) for k, v in state.layers])

    def propose(self, state: ChainState, context: Context, count: int, choose: Choose) -> Tensor:
        """Take in the verified positions, then draft `count` tokens."""
        T = context.next_token_BT.shape[1]
        # A padding query sees itself, so that its softmax is defined; nobody reads its output or its key.
        own_BTT = torch.ones(T, T, dtype=torch.bool, device=self.device).tril() & context.valid_BT.unsqueeze(1)
        own_BTT = own_BTT | torch.eye(T, dtype=torch.bool, device=self.device)
        old_BTL = state.valid_BL.unsqueeze(1).expand(-1, T, -1)
        fed, output, seen = self.draft.step(
            self.draft.embed(context.next_token_BT),
            self.draft.features(context.states),
            context.position_BT,
            state.layers or None,
            torch.cat((old_BTL, own_BTT), dim=2).unsqueeze(1),
        )
        state.layers = seen
        state.valid_BL = torch.cat((state.valid_BL, context.valid_BT), dim=1)

        tokens = [choose(self.draft.logits(output[:, -1]))]
        fed, position_B1 = fed[:, -1:], context.position_BT[:, -1:]
        visible_BL = state.valid_BL
        for _ in range(count - 1):
            position_B1 = position_B1 + 1
            visible_BL = torch.nn.functional.pad(visible_BL, (0, 1), value=True)
            fed, output, seen = self.draft.step(
                self.draft.embed(tokens[-1].unsqueeze(1)), fed, position_B1, seen, visible_BL[:, None, None]
            )
            tokens.append(choose(self.draft.logits(output[:, -1])))
        return torch.stack(tokens, dim=1)
