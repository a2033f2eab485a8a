"""P-EAGLE's mathematics against a naive draft written from vLLM's, and the rows that it samples."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from speculators.data.collate import packed_targets
from speculators.data.template import Document
from speculators.models.peagle import rows as peagle_rows
from speculators.models.peagle.rows import conditional_drop_token
from speculators.protocols.rows import PackedTargets

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
    monkeypatch.setattr(peagle_rows, "CHUNK_ROWS", rows_a_pass)
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


# Lengths of two documents, and where their answers begin and end.
LENGTHS, ANSWERS = (17, 12), ((3, 9), (11, 16), (0, 12))


def two_documents() -> PackedTargets:
    """An answer in two turns, and one from the first token on."""
    first, second = ([False] * n for n in LENGTHS)
    for start, end in ANSWERS[:2]:
        first[start:end] = [True] * (end - start)
    second[slice(*ANSWERS[2])] = [True] * (ANSWERS[2][1] - ANSWERS[2][0])
    return packed_targets([Document([0] * len(s), s) for s in (first, second)])


def sampled(sequence: PackedTargets, seed: int, slots=6, ratio=0.7, least=0.2, most=None) -> set[tuple[int, int]]:
    """Pairs of anchor and slot."""
    rows = conditional_drop_token(sequence, slots, ratio, least, most, torch.Generator().manual_seed(seed))
    pairs = list(zip(rows.anchor_R.tolist(), rows.slot_R.tolist(), strict=True))
    assert rows.valid_R.all() and len(set(pairs)) == len(pairs)
    return set(pairs)


def may_be(sequence: PackedTargets, before: set[tuple[int, int]], seeds: set[int], slot: int) -> set[int]:
    """Anchors that a slot can have: in their target's document, the target an answer's, the chain unbroken."""
    targets, document = set(sequence.target_N.tolist()), sequence.document_T.tolist()
    return {
        a
        for a in range(len(document))
        if a + slot in targets
        and document[a] == document[a + slot]
        and ((a, slot - 1) in before if slot > 2 else a + slot in seeds)
    }


@pytest.mark.parametrize("ratio, least", [(0.7, 0.2), (1.0, 0.2), (0.5, 0.0), (0.3, 0.6)])
@pytest.mark.parametrize("seed", range(5))
def test_chains_nest_and_have_the_formulas_sizes(seed: int, ratio: float, least: float) -> None:
    """Every target has slot 1; each further slot as many rows as the formula says, or all that there can be."""
    sequence = two_documents()
    targets = set(sequence.target_N.tolist())
    rows = sampled(sequence, seed, ratio=ratio, least=least)
    assert {a + 1 for a, slot in rows if slot == 1} == targets
    for slot in range(2, 7):
        anchors, possible = {a for a, s in rows if s == slot}, may_be(sequence, rows, targets, slot)
        share = max(ratio ** (slot - 1), least)
        assert anchors <= possible
        assert len(anchors) == min(len(possible), int((len(targets) - slot + 1) * share))


def test_without_dropping_every_row_is_there() -> None:
    """By hand: seven tokens of one answer have the targets 1 to 5, and every chain within them."""
    sequence = packed_targets([Document([0] * 7, [True] * 7)])
    expected = {(a, s) for s in range(1, 7) for a in range(7) if 1 <= a + s <= 5}
    assert sampled(sequence, 0, ratio=1.0) == expected


def test_rows_are_drawn_evenly() -> None:
    """Of slot 2's possible anchors, each is drawn as often as any other."""
    sequence, seeds = two_documents(), 3000
    rows = [sampled(sequence, seed, slots=2, ratio=0.5) for seed in range(seeds)]
    counts = Counter(a for each in rows for a, slot in each if slot == 2)
    possible = may_be(sequence, set(), set(sequence.target_N.tolist()), 2)
    expected = sum(counts.values()) / len(possible)
    assert counts.keys() == possible
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


@pytest.mark.parametrize("seed", range(3))
def test_few_anchors_begin_chains(seed: int) -> None:
    """max_anchors: so many targets of slot 2 at most, which the formula counts; slot 1 keeps every target."""
    sequence = two_documents()
    rows = sampled(sequence, seed, ratio=1.0, most=4)
    assert {a + 1 for a, slot in rows if slot == 1} == set(sequence.target_N.tolist())
    counts = Counter(slot for _, slot in rows)
    assert 0 < counts[2] <= 3 and all(counts[s] <= max(0, 4 - s + 1) for s in range(2, 7))
