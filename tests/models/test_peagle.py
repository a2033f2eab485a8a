"""P-EAGLE's mathematics against a naive draft written from vLLM's."""

from typing import Any

import pytest
from torch import Tensor

from speculators.nn import masked_chains

from .compare import HIDDEN, VOCAB, check_drafting, check_training, layer_config, make_verifier
from .naive import NaiveDraft, Past
from .naive_fused import KEPT, draft_of, naive_draft

MASK = 5
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "frozen_embedding": {"embed_requires_grad": False},
    "norm_before_fc": {"norm_before_fc": True},
    "reduced_vocabulary_of_two_states": {"draft_vocab_size": len(KEPT), "eagle_aux_hidden_state_layer_ids": [1, 3]},
    "window_of_two": {
        "transformer_layer_config": layer_config(
            "llama", 2, layer_types=["sliding_attention"] * 2, sliding_window=2, use_sliding_window=True
        )
    },
    "two_qwen3_layers": {"transformer_layer_config": layer_config("qwen3", 2), "norm_before_residual": True},
}


class NaiveParallel:
    """One plain sequence for each anchor: its context, then masked places, each position and number alone.

    Args:
        base: the same layers as a recurrent draft.
        weights: with mask_hidden.
    """

    def __init__(self, base: NaiveDraft, weights: dict[str, Tensor]) -> None:
        assert base.fuse is not None
        self.base, self.masked_H = base, base.fuse(weights["mask_hidden"].flatten())

    def draft(self, tokens: list[int], anchor: int, count: int) -> list[Tensor]:
        """As `NaiveDraft.draft`, with a mask token for every token after the one that follows the anchor."""
        past: list[Past] = [[] for _ in range(self.base.layers)]
        for i in range(anchor + 1):
            out, _ = self.base.run(self.base.embed_VH[tokens[i + 1]], self.base.first_fed(i), i, past)
        logits = [self.base.logits(out)]
        for k in range(1, count):
            out, _ = self.base.run(self.base.embed_VH[MASK], self.masked_H, anchor + k, past)
            logits.append(self.base.logits(out))
        return logits


@pytest.mark.parametrize("rows_a_pass", [2, 1024])
@pytest.mark.parametrize("check", [check_training, check_drafting])
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_naive_draft(name: str, check, rows_a_pass: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows in one pass, and few in each."""
    monkeypatch.setattr(masked_chains, "CHUNK_ROWS", rows_a_pass)
    values = {
        "speculators_model_type": "peagle",
        "transformer_layer_config": layer_config("llama", 1),
        "eagle_aux_hidden_state_layer_ids": [1, 2, 4],
        "draft_vocab_size": VOCAB,
        "target_hidden_size": HIDDEN,
        "mask_token_id": MASK,
        **VARIANTS[name],
    }
    model = draft_of(values)
    head, states = make_verifier(len(values["eagle_aux_hidden_state_layer_ids"]) * HIDDEN)
    assert states.aux_BTA is not None
    weights = model.state_dict()
    naive = NaiveParallel(naive_draft(weights, values, head.embed_VH, states.aux_BTA[0]), weights)
    check(model, head, states, naive)
