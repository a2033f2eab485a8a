"""Block drafts: the tokens after an anchor are predicted side by side, from the verifier's states up to the anchor.

A block is the known token after its anchor and then mask tokens. The verifier's states become keys and values of every
layer; queries come from the block alone (DFlash, arXiv:2602.06036). `fill_blocks` computes the blocks of a batch in
training, `BlockDrafter` one block for each sequence in decoding.

Shape legend beside `protocols/batch.py`'s: A anchors of a batch, C of a chunk, M inputs of a block, Q = C * M queries,
L keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from speculators.nn.attention import Attend, KeyValue, additive_mask, joined, masked
from speculators.nn.precision import product_dtype
from speculators.nn.slot_drafter import SlotDrafter
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Context
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates

# Queries computed together in training. A chunk's blocks see nothing of each other, so its mask wastes as many keys;
# with fewer queries the products are too small.
CHUNK_QUERIES = 512


class LayerKind(NamedTuple):
    """Which keys a layer's queries see by distance, as vLLM's attention has it.

    Attributes:
        window: a key is seen if its position is less than so many tokens away; None sees all.
        causal: keys of later positions are not seen.
    """

    window: int | None
    causal: bool

    def sees(self, query_Q1: Tensor, key_L: Tensor) -> Tensor:
        """Whether a query sees a key, bool, broadcast from their int64 positions."""
        ahead = query_Q1 - key_L
        seen = ahead >= 0 if self.causal else torch.ones_like(ahead, dtype=torch.bool)
        return seen if self.window is None else seen & (ahead.abs() < self.window)


# How queries of each kind of layer attend.
Attends = Mapping[LayerKind, Attend]


class BlockDraft(Protocol):
    """Interface of a draft that fills blocks."""

    @property
    def kinds(self) -> Sequence[LayerKind]:
        """The kind of each layer."""
        ...

    @property
    def mask_token_id(self) -> int:
        """What the unknown inputs of a block are."""
        ...

    @property
    def first_input(self) -> int:
        """The input of a block that predicts slot 1: 0 is the token after the anchor, 1 the first mask token."""
        ...

    def embed(self, token_BM: Tensor, verifier: VerifierHead) -> Tensor:
        """[B, M, H] token embeddings, in the draft's dtype."""
        ...

    def features(self, states: VerifierStates) -> Tensor:
        """[B, T, H] what every layer's context keys and values are made of."""
        ...

    def context(self, features_BTH: Tensor, position_BT: Tensor) -> list[KeyValue]:
        """Keys and values of verified positions, of every layer."""
        ...

    def block(self, embed_BQH: Tensor, position_BQ: Tensor, past: Sequence[KeyValue], attends: Attends) -> Tensor:
        """[B, Q, H] the layers' output after the final norm; `past` is each layer's context."""
        ...

    def logits(self, output_NH: Tensor, verifier: VerifierHead) -> Tensor:
        """[N, V] logits over the verifier's vocabulary, -inf where the draft has no such token."""
        ...


class Chunk(NamedTuple):
    """Blocks that are computed together.

    Attributes:
        anchors: their places among the batch's anchors.
        keys: flat positions of the batch that hold all that they see.
    """

    anchors: slice
    keys: slice


def fill_blocks(draft: BlockDraft, batch: Batch, states: VerifierStates, verifier: VerifierHead) -> Tensor:
    """The outputs of the blocks after all anchors of a batch.

    A block sees the positions of its document up to its anchor, and itself; positions count on from the anchor's.

    Args:
        draft: its plan is of blocks, as `anchor_blocks` makes them.
        batch: with its rows.
        states: the verifier's.
        verifier: its embedding may be the draft's.

    Returns:
        output_RH: what the head reads, for every row of `batch.rows`.
    """
    token_P, position_P, document_P = (x.flatten() for x in (batch.token_BT, batch.position_BT, batch.document_BT))
    features_1PH = draft.features(states).flatten(0, 1).unsqueeze(0)
    context = draft.context(features_1PH, position_P.unsqueeze(0))
    anchor_A, slots = batch.rows.of_slot(batch.rows.anchor_R, 1), batch.rows.slots
    inputs = slots + draft.first_input
    place_M = torch.arange(inputs, device=token_P.device)
    outputs = [features_1PH.new_zeros(0, slots, features_1PH.shape[-1]) + features_1PH[0, :0].unsqueeze(1)]
    for chunk in chunks(batch, inputs):
        anchor_C = anchor_A[chunk.anchors]
        token_CM = torch.where(place_M == 0, token_P[anchor_C + 1].unsqueeze(1), draft.mask_token_id)
        position_CM = position_P[anchor_C].unsqueeze(1) + 1 + place_M
        key_K = torch.arange(chunk.keys.start, chunk.keys.stop, device=token_P.device)
        block_Q = torch.arange(len(anchor_C), device=token_P.device).repeat_interleave(inputs)
        before_CK = (document_P[anchor_C].unsqueeze(1) == document_P[chunk.keys]) & (key_K <= anchor_C.unsqueeze(1))
        sees_QL = torch.cat((before_CK[block_Q], block_Q.unsqueeze(1) == block_Q), dim=1)
        query_Q1 = position_CM.flatten().unsqueeze(1)
        position_L = torch.cat((position_P[chunk.keys], position_CM.flatten()))
        dtype = product_dtype(features_1PH)
        output_1QH = draft.block(
            draft.embed(token_CM, verifier).flatten(0, 1).unsqueeze(0),
            position_CM.flatten().unsqueeze(0),
            [KeyValue(key[:, :, chunk.keys], value[:, :, chunk.keys]) for key, value in context],
            {kind: _masked(sees_QL & kind.sees(query_Q1, position_L), dtype) for kind in {*draft.kinds}},
        )
        outputs.append(output_1QH[0].unflatten(0, (-1, inputs))[:, draft.first_input :])
    return torch.cat(outputs).transpose(0, 1).flatten(0, 1)


def chunks(batch: Batch, inputs: int) -> Iterator[Chunk]:
    """Consecutive blocks of one sequence each, so that they share keys.

    Args:
        batch: its rows are blocks.
        inputs: of a block, M.
    """
    layout, width = batch.rows.layout, batch.token_BT.shape[1]
    anchor_A = layout.anchor_R[layout.spans[0]]
    size, start = max(1, CHUNK_QUERIES // inputs), 0
    while start < len(anchor_A):
        first = int(anchor_A[start])
        stop = min(start + size, int(anchor_A.searchsorted((first // width + 1) * width)))
        yield Chunk(slice(start, stop), slice(batch.document_start(first), int(anchor_A[stop - 1]) + 1))
        start = stop


def _masked(sees_QL: Tensor, dtype: torch.dtype) -> Attend:
    return masked(additive_mask(sees_QL[None], dtype))


class BlockDrafter(SlotDrafter):
    """Fills a block for every sequence, as long as the round's draft may be; keys of verified positions are kept.

    A shorter draft than was trained has a shorter block, as in vLLM. Gaps of shorter sequences are masked, not closed.

    Args:
        draft: whose layers.
        verifier: its embedding and head.
        batch_size: sequences.
    """

    def __init__(self, draft: BlockDraft, verifier: VerifierHead, batch_size: int) -> None:
        super().__init__()
        self.draft, self.verifier = draft, verifier
        self.valid_BL = torch.zeros(batch_size, 0, dtype=torch.bool, device=verifier.embed_VH.device)
        self.position_BL = torch.zeros_like(self.valid_BL, dtype=torch.int64)
        self.verified: list[KeyValue] | None = None

    def select(self, rows: Tensor) -> None:
        """Keep only the sequences `rows`."""
        self.valid_BL, self.position_BL = self.valid_BL[rows], self.position_BL[rows]
        if self.verified is not None:
            self.verified = [KeyValue(k[rows], v[rows]) for k, v in self.verified]

    def read(self, context: Context, depth: int) -> None:
        """Take in verified positions, and fill the block after the last."""
        assert context.states is not None
        own = self.draft.context(self.draft.features(context.states), context.position_BT)
        self.verified = [joined(pair) for pair in zip(self.verified, own, strict=True)] if self.verified else own
        self.valid_BL = torch.cat((self.valid_BL, context.valid_BT), dim=1)
        self.position_BL = torch.cat((self.position_BL, context.position_BT), dim=1)
        place_M = torch.arange(depth + self.draft.first_input, device=self.valid_BL.device)
        token_BM = torch.where(place_M == 0, context.next_token_BT[:, -1:], self.draft.mask_token_id)
        position_BM = context.position_BT[:, -1:] + 1 + place_M
        visible_BL = torch.cat((self.valid_BL, torch.ones_like(token_BM, dtype=torch.bool)), dim=1)
        query_BM1 = position_BM.unsqueeze(2)
        position_B1L = torch.cat((self.position_BL, position_BM), dim=1).unsqueeze(1)
        attends = {
            kind: masked((visible_BL.unsqueeze(1) & kind.sees(query_BM1, position_B1L)).unsqueeze(1))
            for kind in {*self.draft.kinds}
        }
        output_BMH = self.draft.block(self.draft.embed(token_BM, self.verifier), position_BM, self.verified, attends)
        self.output_BSH = output_BMH[:, self.draft.first_input :]

    def slot(self, level: int) -> Tensor:
        """The head on one slot's output."""
        return self.draft.logits(self.output_BSH[:, level], self.verifier)
