"""Drafting with a language model of transformers, over a cache that a round's own places are taken out of again."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from speculators.nn.attention import additive_mask, cached_mask
from speculators.nn.precision import product_dtype
from speculators.nn.slot_drafter import SlotDrafter
from speculators.protocols.drafter import Context, Predictions


class LanguageModelDrafter:
    """Implements `speculators.protocols.drafter.Drafter` for a decoder of transformers, token by token.

    The cache holds the verified tokens of all rounds, with gaps that are masked, and behind them the places of this round:
    the token just sampled, whose successor is drafted first, and the tree or the masked places.

    Args:
        decoder: transformers' model without its head.
        logits: its head.
        batch_size: sequences.
    """

    def __init__(self, decoder: PreTrainedModel, logits: Callable[[Tensor], Tensor], batch_size: int) -> None:
        self.decoder, self.logits, self.cache = decoder, logits, DynamicCache()
        self.verified_BL = torch.zeros(batch_size, 0, dtype=torch.bool, device=decoder.device)
        self.own = 0  # places of this round in the cache

    def select(self, rows: Tensor) -> None:
        """Keep only the sequences `rows`."""
        self.verified_BL = self.verified_BL[rows]
        self.cache.batch_select_indices(rows)

    def extend(self, context: Context, depth: int) -> Predictions:
        """Take in the verified tokens, and the one just sampled as the root of the tree."""
        return Predictions(self.logits(self.begin(context, masks=0, mask_token=0)))

    def begin(self, context: Context, masks: int, mask_token: int) -> Tensor:
        """Begin a round: read the verified tokens, the one just sampled, and masked places after it.

        Args:
            context: as of `Drafter.extend`.
            masks: M, how many masked places.
            mask_token: what they hold.

        Returns:
            [B, 1 + M, H] outputs at the token just sampled and at the masked places; each sees all before it.
        """
        if self.own:
            self.cache.crop(-self.own)
        mask_BM = context.token_BT.new_full((len(context.token_BT), masks), mask_token)
        self.own = 1 + masks
        ahead_M = torch.arange(1, 1 + self.own, device=mask_BM.device)
        token_BT = torch.cat((context.token_BT, context.next_token_BT[:, -1:], mask_BM), dim=1)
        position_BT = torch.cat((context.position_BT, context.position_BT[:, -1:] + ahead_M), dim=1)
        valid_BT = torch.nn.functional.pad(context.valid_BT, (0, self.own), value=True)
        sees_BTL = cached_mask(self.verified_BL, valid_BT)
        self.verified_BL = torch.cat((self.verified_BL, context.valid_BT), dim=1)
        return self._pass(token_BT, position_BT, sees_BTL, last=self.own)

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        """One pass over the nodes; each sees what its parent sees, and itself."""
        N = token_BN.shape[1]
        itself_BNN = torch.eye(N, dtype=torch.bool, device=token_BN.device).expand(len(token_BN), -1, -1)
        sees_BNL = torch.cat((torch.take_along_dim(self.sees_BNL, parent_BN.unsqueeze(-1), dim=1), itself_BNN), dim=2)
        self.own += N
        return Predictions(
            self.logits(self._pass(token_BN, self.position_BN.gather(1, parent_BN) + 1, sees_BNL, last=N))
        )

    def _pass(self, token_BT: Tensor, position_BT: Tensor, sees_BTL: Tensor, last: int) -> Tensor:
        """Read tokens; returns the outputs at the last ones, which a further pass may follow."""
        hidden_BTH = self.decoder(
            input_ids=token_BT,
            position_ids=position_BT,
            attention_mask=additive_mask(
                sees_BTL, product_dtype(self.decoder.get_input_embeddings().get_parameter("weight"))
            ),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.position_BN, self.sees_BNL = position_BT[:, -last:], sees_BTL[:, -last:]
        return hidden_BTH[:, -last:]


class MaskedPlacesDrafter(SlotDrafter):
    """All tokens from one pass: a mask token stands for each that is not known yet (PARD, arXiv:2504.18583).

    Args:
        text: reads the verified tokens.
        pard_token: the mask.
    """

    def __init__(self, text: LanguageModelDrafter, pard_token: int) -> None:
        super().__init__()
        self.text, self.pard_token = text, pard_token

    def select(self, rows: Tensor) -> None:
        """Keep only the sequences `rows`."""
        super().select(rows)
        self.text.select(rows)

    def read(self, context: Context, depth: int) -> None:
        """The token just sampled predicts the first level, and each masked place the next."""
        self.output_BSH = self.text.begin(context, depth - 1, self.pard_token)

    def slot(self, level: int) -> Tensor:
        """The head over one place's output; computed only if the level is drafted."""
        return self.text.logits(self.output_BSH[:, level])
