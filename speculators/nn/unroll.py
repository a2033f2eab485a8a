"""A recurrent draft, unrolled in training over all anchors at once; `nn/recurrent_drafter.py` drafts with it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from speculators.nn.attention import Attend, Seen
from speculators.nn.precision import product_dtype
from speculators.nn.unrolled_attention import unrolled
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates


class Step(NamedTuple):
    """One step of a recurrent draft: what the next step is fed, what the head reads, and each layer's keys and values."""

    feedback_BTH: Tensor
    output_BTH: Tensor
    seen: list[Seen]


class Recurrent(Protocol):
    """Interface of a draft that `unroll` trains."""

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, each with keys and values of its own."""
        ...

    def features(self, states: VerifierStates) -> Tensor:
        """[B, T, H] what the first step is fed at each verified position."""
        ...

    def step(
        self,
        embed_BTH: Tensor,
        fed_BTH: Tensor,
        position_BT: Tensor,
        past: Sequence[Seen],
        attend: Attend,
    ) -> Step:
        """One pass through the draft's layers, each with its part of `past`; `attend` as in `Attention`."""
        ...

    def embed(self, token_BT: Tensor, verifier: VerifierHead) -> Tensor:
        """[B, T, H] token embeddings, the draft's own or the verifier's, in the draft's dtype."""
        ...

    def logits(self, output_NH: Tensor, verifier: VerifierHead) -> Tensor:
        """[N, V] logits over the verifier's vocabulary, -inf where the draft has no such token."""
        ...


def unroll(
    draft: Recurrent, batch: Batch, states: VerifierStates, verifier: VerifierHead, detach: bool = False
) -> Tensor:
    """Training-time test (Li et al. 2025, arXiv:2503.01840): slots fed by the slots before them, for every anchor.

    At slot s, anchor a is fed token a + s and its own feedback of slot s - 1, at position a + s - 1. It sees the first
    slot's keys of its document up to a, which drafting makes from verified states, and its own keys of later slots.

    Args:
        draft: the draft model.
        batch: with its rows.
        states: the verifier's.
        verifier: its embedding and head.
        detach: no gradient flows into a slot through what it is fed, so that each slot is trained alone (HASS).

    Returns:
        output_RH: what the head reads, for every row of `batch.rows`.
    """
    slots, anchor_R = batch.rows.slots, batch.rows.anchor_R.clamp_min(0)
    fed_BTH, past = draft.features(states), [() for _ in draft.layers]
    attend = unrolled(batch, slots, product_dtype(fed_BTH))
    outputs = []
    for slot in range(1, slots + 1):
        # Past the end of a row the input is token 0: no target has such an anchor.
        token_BT = torch.nn.functional.pad(batch.token_BT[:, slot:], (0, slot))
        fed_BTH, output_BTH, past = draft.step(
            draft.embed(token_BT, verifier), fed_BTH, batch.position_BT + slot - 1, past, attend
        )
        fed_BTH = fed_BTH.detach() if detach else fed_BTH
        outputs.append(output_BTH.flatten(0, 1)[batch.rows.of_slot(anchor_R, slot)])
    return torch.cat(outputs)
