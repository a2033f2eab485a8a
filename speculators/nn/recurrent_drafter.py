"""Drafting with a recurrent draft: each level of the tree is one pass over its nodes, fed with their parents' output."""

from dataclasses import dataclass

import torch
from torch import Tensor

from speculators.nn.attention import KeyValue, Seen, cached_mask, joined, masked
from speculators.nn.unroll import Recurrent, Step
from speculators.protocols.drafter import Context, Predictions
from speculators.protocols.head import VerifierHead


@dataclass
class _Level:
    """State of one level of the tree, from which the next level is computed.

    Attributes:
        fed_BNH: what each node's children are fed.
        position_BN: int64 positions of the draft's pass for the nodes.
        visible_BNL: bool, the keys that each node sees, its own included.
        key_BL: int64 position of each key.
        seen: each layer's keys and values, L long: verified positions, then the nodes of all levels so far.
    """

    fed_BNH: Tensor
    position_BN: Tensor
    visible_BNL: Tensor
    key_BL: Tensor
    seen: list[Seen]


class RecurrentDrafter:
    """Implements `speculators.protocols.drafter.Drafter` for a recurrent draft.

    Keys and values of verified positions are kept between rounds; gaps of shorter sequences are masked, not closed. A
    round's nodes share them: a node's mask is its parent's and itself.
    """

    def __init__(self, draft: Recurrent, verifier: VerifierHead, batch_size: int) -> None:
        self.draft, self.verifier = draft, verifier
        self.valid_BL = torch.zeros(batch_size, 0, dtype=torch.bool, device=verifier.embed_VH.device)
        self.position_BL = self.valid_BL.long()
        self.verified: list[Seen] = [() for _ in draft.layers]
        self.level: _Level | None = None

    def select(self, rows: Tensor) -> None:
        """Keep only the sequences `rows`."""
        self.valid_BL, self.position_BL = self.valid_BL[rows], self.position_BL[rows]
        self.verified = [tuple(KeyValue(k[rows], v[rows]) for k, v in seen) for seen in self.verified]

    def extend(self, context: Context, depth: int) -> Predictions:
        """Take in the verified positions with the verifier's states, each beside the token after it."""
        assert context.states is not None
        mask_B1TL = cached_mask(self.valid_BL, context.valid_BT).unsqueeze(1)
        self.valid_BL = torch.cat((self.valid_BL, context.valid_BT), dim=1)
        self.position_BL = torch.cat((self.position_BL, context.position_BT), dim=1)
        step = self.draft.step(
            self.draft.embed(context.next_token_BT, self.verifier),
            self.draft.features(context.states),
            context.position_BT,
            self.verified,
            masked(mask_B1TL, context.position_BT, self.position_BL),
        )
        # One piece, so that a pass over the next nodes copies it once.
        self.verified = [(joined(seen),) for seen in step.seen]
        # The last place is the root: it stands for the token just sampled.
        root = Step(step.feedback_BTH[:, -1:], step.output_BTH[:, -1:], self.verified)
        return self._predict(root, context.position_BT[:, -1:], self.valid_BL.unsqueeze(1), self.position_BL)

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        """One pass over the nodes, each fed with its parent's output, one position further."""
        before, N = self.level, token_BN.shape[1]
        assert before is not None  # extend comes first
        position_BN = before.position_BN.gather(1, parent_BN) + 1
        itself_BNN = torch.eye(N, dtype=torch.bool, device=token_BN.device).expand(len(token_BN), -1, -1)
        visible_BNL = torch.cat((_pick(before.visible_BNL, parent_BN), itself_BNN), dim=2)
        key_BL = torch.cat((before.key_BL, position_BN), dim=1)
        step = self.draft.step(
            self.draft.embed(token_BN, self.verifier),
            _pick(before.fed_BNH, parent_BN),
            position_BN,
            before.seen,
            masked(visible_BNL.unsqueeze(1), position_BN, key_BL),
        )
        return self._predict(step, position_BN, visible_BNL, key_BL)

    def _predict(self, step: Step, position_BN: Tensor, visible_BNL: Tensor, key_BL: Tensor) -> Predictions:
        self.level = _Level(step.feedback_BTH, position_BN, visible_BNL, key_BL, step.seen)
        logits_NV = self.draft.logits(step.output_BTH.flatten(0, 1), self.verifier)
        return Predictions(logits_NV.unflatten(0, step.output_BTH.shape[:2]))


def _pick(x_BNC: Tensor, index_BM: Tensor) -> Tensor:
    """[B, M, C] of the nodes `index_BM`."""
    return x_BNC.gather(1, index_BM.unsqueeze(-1).expand(-1, -1, x_BNC.shape[-1]))
