"""A recurrent draft, unrolled in training over all anchors at once; `nn/recurrent_drafter.py` drafts with it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from speculators.nn.attention import KeyValue
from speculators.nn.precision import product_dtype
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates


class Step(NamedTuple):
    """One step of a recurrent draft: what the next step is fed, what the head reads, and each layer's keys and values."""

    feedback_BTH: Tensor
    output_BTH: Tensor
    seen: list[KeyValue]


class Recurrent(Protocol):
    """Interface of a draft that `unroll` trains."""

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

    def embed(self, token_BT: Tensor, verifier: VerifierHead) -> Tensor:
        """[B, T, H] token embeddings, the draft's own or the verifier's, in the draft's dtype."""
        ...

    def logits(self, output_NH: Tensor, verifier: VerifierHead) -> Tensor:
        """[N, V] logits over the verifier's vocabulary, -inf where the draft has no such token."""
        ...


def unroll(draft: Recurrent, batch: Batch, states: VerifierStates, verifier: VerifierHead) -> Tensor:
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
    # One additive mask for all slots: from a bool mask, attention would create and keep an additive one at every slot.
    sum_B1TL = torch.zeros_like(sees_BTL, dtype=product_dtype(fed_BTH)).masked_fill_(~sees_BTL, -torch.inf).unsqueeze(1)
    outputs = []
    for slot in range(1, slots + 1):
        # Past the end of a row the input is token 0: no target has such an anchor.
        token_BT = torch.nn.functional.pad(batch.token_BT[:, slot:], (0, slot))
        fed_BTH, output_BTH, past = draft.step(
            draft.embed(token_BT, verifier), fed_BTH, batch.position_BT + slot - 1, past, sum_B1TL[..., : slot * T]
        )
        outputs.append(output_BTH.flatten(0, 1)[batch.rows.of_slot(anchor_R, slot)])
    return torch.cat(outputs)
