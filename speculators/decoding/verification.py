"""The verifier's side of decoding: one pass verifies a draft, and the cache keeps the accepted tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speculators.decoding.cache import RaggedCache
from speculators.decoding.tree_mask import attention_masks, check_reads_trees, tree_visibility
from speculators.protocols.draft import Draft, Verdict
from speculators.protocols.drafter import Context
from speculators.protocols.hidden_states import VerifierStates
from speculators.verifier.in_process import Verifier


@dataclass(frozen=True)
class Pass:
    """One pass over a draft: place 0 is the last verified token, place 1 + m is node m.

    Attributes:
        token_BP: int64 tokens, P = 1 + M.
        position_BP: int64 positions in the text.
        states: at every place.
        logits_BPV: after every place.
    """

    token_BP: Tensor
    position_BP: Tensor
    states: VerifierStates
    logits_BPV: Tensor

    def context(self, verdict: Verdict, with_states: bool) -> Context:
        """The accepted places, moved to the right edge, as the drafter takes them in.

        Args:
            verdict: what was accepted.
            with_states: whether the drafter reads states.
        """
        P = 1 + verdict.node_BD.shape[1]
        # Place 0 and the accepted ones in order, after as many that are padding.
        shift_B1 = (P - 1 - verdict.accepted_B).unsqueeze(1)
        path_BP = torch.nn.functional.pad(verdict.node_BD + 1, (1, 0))
        index_BP = torch.arange(P, device=path_BP.device) - shift_B1
        valid_BP = index_BP >= 0
        place_BP = path_BP.gather(1, index_BP.clamp_min(0))
        token_BP = self.token_BP.gather(1, place_BP)

        def pick(x_BPC: Tensor) -> Tensor:
            return x_BPC.gather(1, place_BP.unsqueeze(-1).expand(-1, -1, x_BPC.shape[-1]))

        aux_BPA = self.states.aux_BTA
        return Context(
            token_BT=token_BP * valid_BP,
            next_token_BT=torch.cat((token_BP[:, 1:], verdict.token_B.unsqueeze(1)), dim=1),
            states=VerifierStates(pick(self.states.last_BTH), None if aux_BPA is None else pick(aux_BPA))
            if with_states
            else None,
            position_BT=self.position_BP.gather(1, place_BP) * valid_BP,
            valid_BT=valid_BP,
        )


class Verification:
    """A batch of texts in the verifier's cache.

    Attributes:
        cache: keys and values of every verified token but the last of each text.
        length_B: int64 tokens in the cache, of each text.
    """

    def __init__(self, verifier: Verifier, layer_ids: Sequence[int]) -> None:
        """Start with an empty cache.

        Args:
            verifier: the model.
            layer_ids: layers whose states a draft reads; empty if it reads none but the last.
        """
        self.verifier, self.layer_ids = verifier, layer_ids

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Pass, Tensor]:
        """Read the prompts.

        Args:
            prompts: token ids, at least one prompt and one token each.

        Returns:
            The pass over all of them, padded on the left, with logits after the last place alone, P = 1 in them; and
            bool valid_BT, False at padding.
        """
        device, width = self.verifier.device, max(map(len, prompts))
        token_BT = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        valid_BT = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
        position_BT = (valid_BT.cumsum(1) - 1).clamp_min(0)
        self.cache, self.length_B = RaggedCache(self.verifier.new_cache(), valid_BT), valid_BT.sum(1)
        states = self.verifier.states(token_BT, position_BT, self.layer_ids, valid_BT, self.cache.kv)
        logits_B1V = self.verifier.head.logits(states.last_BTH[:, -1:])
        return Pass(token_BT, position_BT, states, logits_B1V), valid_BT

    def read(self, last_B: Tensor, draft: Draft) -> Pass:
        """One pass over the last verified tokens and what was drafted after them; the cache holds all of it afterwards.

        Args:
            last_B: int64 the last verified token of each text, which the cache does not hold yet.
            draft: of M >= 0 tokens.

        Raises:
            ValueError: the draft is no chain, and the verifier has layers that cannot read a tree.
        """
        token_BP = torch.cat((last_B.unsqueeze(1), draft.token_BM), dim=1)
        P = token_BP.shape[1]
        if draft.is_chain:
            position_BP = self.length_B.unsqueeze(1) + torch.arange(P, device=token_BP.device)
            states = self._read_chain(token_BP, position_BP)
        else:
            check_reads_trees(self.verifier)
            visible_BPC, distance_BPC = tree_visibility(self.cache.valid_BL, draft)
            position_BP = self.length_B.unsqueeze(1) + visible_BPC[:, :, -P:].sum(2) - 1
            config, dtype = self.verifier.model.config.get_text_config(), self.verifier.head.embed_VH.dtype
            mask = attention_masks(config, visible_BPC, distance_BPC, dtype)
            self.cache.grow(P)
            states = self.verifier.states(token_BP, position_BP, self.layer_ids, mask, self.cache.kv)
        return Pass(token_BP, position_BP, states, self.verifier.head.logits(states.last_BTH))

    def _read_chain(self, token_BP: Tensor, position_BP: Tensor) -> VerifierStates:
        """One pass with causal attention over columns; where layers have a state, one for each token."""
        ids, kv = self.layer_ids, self.cache.kv
        if not self.cache.has_state:
            return self.verifier.states(token_BP, position_BP, ids, self.cache.grow(token_BP.shape[1]), kv)
        parts = []
        for token_B1, position_B1 in zip(token_BP.split(1, 1), position_BP.split(1, 1), strict=True):
            parts.append(self.verifier.states(token_B1, position_B1, ids, self.cache.grow(1), kv))
            self.cache.note()
        aux = [part.aux_BTA for part in parts if part.aux_BTA is not None]
        return VerifierStates(torch.cat([p.last_BTH for p in parts], dim=1), torch.cat(aux, dim=1) if aux else None)

    def keep(self, verdict: Verdict, places: int) -> None:
        """Of the last pass, keep the last verified token and the accepted path.

        Args:
            verdict: what was accepted.
            places: P of that pass.
        """
        place_P = torch.arange(places, device=verdict.token_B.device)
        kept_BP = (verdict.node_BD.unsqueeze(2) + 1 == place_P).any(1)
        kept_BP[:, 0] = True
        self.cache.keep(kept_BP)
        self.length_B = self.length_B + verdict.accepted_B + 1

    def select(self, rows: Tensor) -> None:
        """Keep only some texts, `rows` int64 indices."""
        self.cache.select(rows)
        self.length_B = self.length_B[rows]
