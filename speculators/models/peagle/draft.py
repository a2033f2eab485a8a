"""Drafting with masked places: one pass over the newly verified positions and, after them, a place for each further slot."""

from typing import Protocol

import torch
from torch import Tensor

from speculators.nn.attention import KeyValue, Seen, cached_mask, joined, masked
from speculators.nn.slot_drafter import SlotDrafter
from speculators.nn.unroll import Recurrent
from speculators.protocols.drafter import Context
from speculators.protocols.head import VerifierHead


class Parallel(Recurrent, Protocol):
    """Interface of a draft that reads masked places."""

    def mask_inputs(self, verifier: VerifierHead) -> tuple[Tensor, Tensor]:
        """[H] embedding and [H] fused state of every masked place."""
        ...


class ParallelDrafter(SlotDrafter):
    """Keeps keys and values of verified positions between rounds; those of masked places are dropped with their round."""

    def __init__(self, draft: Parallel, verifier: VerifierHead, batch_size: int) -> None:
        super().__init__()
        self.draft, self.verifier = draft, verifier
        self.valid_BL = torch.zeros(batch_size, 0, dtype=torch.bool, device=verifier.embed_VH.device)
        self.position_BL = self.valid_BL.long()
        self.verified: list[Seen] = [() for _ in draft.layers]

    def select(self, rows: Tensor) -> None:
        """Keep only the sequences `rows`."""
        super().select(rows)
        self.valid_BL, self.position_BL = self.valid_BL[rows], self.position_BL[rows]
        self.verified = [tuple(KeyValue(k[rows], v[rows]) for k, v in seen) for seen in self.verified]

    def read(self, context: Context, depth: int) -> None:
        """The last position carries the token just sampled and predicts the first level; each masked place the next."""
        assert context.states is not None
        (B, T), masks = context.next_token_BT.shape, depth - 1
        embed_H, fed_H = self.draft.mask_inputs(self.verifier)
        embed_BTH, fed_BTH = self.draft.embed(context.next_token_BT, self.verifier), self.draft.features(context.states)
        embed_BTH = torch.cat((embed_BTH, embed_H.expand(B, masks, -1)), dim=1)
        fed_BTH = torch.cat((fed_BTH, fed_H.expand(B, masks, -1)), dim=1)
        ahead_M = torch.arange(1, depth, device=self.valid_BL.device)
        position_BT = torch.cat((context.position_BT, context.position_BT[:, -1:] + ahead_M), dim=1)
        valid_BT = torch.nn.functional.pad(context.valid_BT, (0, masks), value=True)
        mask_B1TL = cached_mask(self.valid_BL, valid_BT).unsqueeze(1)
        attend = masked(mask_B1TL, position_BT, torch.cat((self.position_BL, position_BT), dim=1))
        step = self.draft.step(embed_BTH, fed_BTH, position_BT, self.verified, attend)
        self.valid_BL = torch.cat((self.valid_BL, context.valid_BT), dim=1)
        self.position_BL = torch.cat((self.position_BL, context.position_BT), dim=1)
        length = self.valid_BL.shape[1]
        self.verified = [(KeyValue(k[:, :, :length], v[:, :, :length]),) for k, v in map(joined, step.seen)]
        self.output_BSH = step.output_BTH[:, T - 1 :]

    def slot(self, level: int) -> Tensor:
        """The head over one place's output; computed only if the level is drafted."""
        return self.draft.logits(self.output_BSH[:, level], self.verifier)
