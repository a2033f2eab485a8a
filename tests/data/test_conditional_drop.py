"""Conditional drop-token by its formula: which rows parallel drafts are trained on."""

from collections import Counter

import pytest
import torch

from speculators.data.collate import packed_targets
from speculators.data.row_plan import conditional_drop_token
from speculators.data.template import Document
from speculators.protocols.rows import PackedTargets

# Lengths of two documents, and where their answers begin and end.
LENGTHS, ANSWERS = (17, 12), ((3, 9), (11, 16), (0, 12))


def two_documents() -> PackedTargets:
    """An answer in two turns, and one from the first token on."""
    first, second = ([False] * n for n in LENGTHS)
    for start, end in ANSWERS[:2]:
        first[start:end] = [True] * (end - start)
    second[slice(*ANSWERS[2])] = [True] * (ANSWERS[2][1] - ANSWERS[2][0])
    return packed_targets([Document([0] * len(s), s) for s in (first, second)])


def sampled(sequence: PackedTargets, seed: int, slots=6, ratio=0.7, least=0.2, **others: int) -> set[tuple[int, int]]:
    """Pairs of anchor and slot."""
    rows = conditional_drop_token(sequence, slots, ratio, least, torch.Generator().manual_seed(seed), **others)
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
@pytest.mark.parametrize("fewer", [0, 1], ids=["PARD", "P-EAGLE"])
@pytest.mark.parametrize("seed", range(5))
def test_chains_nest_and_have_the_formulas_sizes(seed: int, fewer: int, ratio: float, least: float) -> None:
    """Every target has slot 1; each further slot as many rows as the formula says, or all that there can be."""
    sequence = two_documents()
    targets = set(sequence.target_N.tolist())
    rows = sampled(sequence, seed, ratio=ratio, least=least, fewer=fewer)
    assert {a + 1 for a, slot in rows if slot == 1} == targets
    for slot in range(2, 7):
        anchors, possible = {a for a, s in rows if s == slot}, may_be(sequence, rows, targets, slot)
        share = max(ratio ** (slot - 1), least)
        assert anchors <= possible
        assert len(anchors) == min(len(possible), int((len(targets) - fewer * (slot - 1)) * share))


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
    rows = sampled(sequence, seed, ratio=1.0, max_anchors=4, fewer=1)
    assert {a + 1 for a, slot in rows if slot == 1} == set(sequence.target_N.tolist())
    counts = Counter(slot for _, slot in rows)
    assert 0 < counts[2] <= 3 and all(counts[s] <= max(0, 4 - s + 1) for s in range(2, 7))
