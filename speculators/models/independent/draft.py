"""Drafting with a language model of transformers, over a cache that a round's tree is taken out of again."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from speculators.nn.attention import additive_mask, cached_mask
from speculators.nn.precision import product_dtype
from speculators.protocols.drafter import Context, Predictions


class LanguageModelDrafter:
    """Implements `speculators.protocols.drafter.Drafter` for a decoder of transformers.

    The cache holds the verified tokens of all rounds, with gaps that are masked, and behind them the nodes of this round:
    the last verified token, whose successor is drafted first, and the tree.

    Args:
        decoder: transformers' model without its head.
        logits: its head.
        batch_size: sequences.
    """

    def __init__(self, decoder: PreTrainedModel, logits: Callable[[Tensor], Tensor], batch_size: int) -> None:
        self.decoder, self.logits, self.cache = decoder, logits, DynamicCache()
        self.verified_BL = torch.zeros(batch_size, 0, dtype=torch.bool, device=decoder.device)
        self.nodes = 0  # of this round, in the cache

    def select(self, rows: Tensor) -> None:
        """Keep only the sequences `rows`."""
        self.verified_BL = self.verified_BL[rows]
        self.cache.batch_select_indices(rows)

    def extend(self, context: Context, depth: int) -> Predictions:
        """Take in the verified tokens, and the one just sampled as the root of the tree."""
        if self.nodes:
            self.cache.crop(-self.nodes)
        token_BT = torch.cat((context.token_BT, context.next_token_BT[:, -1:]), dim=1)
        position_BT = torch.cat((context.position_BT, context.position_BT[:, -1:] + 1), dim=1)
        valid_BT = torch.nn.functional.pad(context.valid_BT, (0, 1), value=True)
        sees_BTL = cached_mask(self.verified_BL, valid_BT)
        self.verified_BL = torch.cat((self.verified_BL, context.valid_BT), dim=1)
        self.nodes = 1
        return self._pass(token_BT, position_BT, sees_BTL, level=1)

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        """One pass over the nodes; each sees what its parent sees, and itself."""
        N = token_BN.shape[1]
        itself_BNN = torch.eye(N, dtype=torch.bool, device=token_BN.device).expand(len(token_BN), -1, -1)
        sees_BNL = torch.cat((torch.take_along_dim(self.sees_BNL, parent_BN.unsqueeze(-1), dim=1), itself_BNN), dim=2)
        self.nodes += N
        return self._pass(token_BN, self.position_BN.gather(1, parent_BN) + 1, sees_BNL, level=N)

    def _pass(self, token_BT: Tensor, position_BT: Tensor, sees_BTL: Tensor, level: int) -> Predictions:
        """Read tokens, and predict after the last `level` of them, the nodes whose children are drafted next."""
        hidden_BTH = self.decoder(
            input_ids=token_BT,
            position_ids=position_BT,
            attention_mask=additive_mask(
                sees_BTL, product_dtype(self.decoder.get_input_embeddings().get_parameter("weight"))
            ),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.position_BN, self.sees_BNL = position_BT[:, -level:], sees_BTL[:, -level:]
        return Predictions(self.logits(hidden_BTH[:, -level:]))
