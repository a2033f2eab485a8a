"""Counts by hand."""

import pytest
import torch

from speculators.losses.metrics import chained, expected_acceptance_length, overlap


def test_expected_acceptance_length() -> None:
    assert expected_acceptance_length(torch.tensor([0.5, 0.5, 1.0])).item() == pytest.approx(1 + 0.5 + 0.25 + 0.25)


def test_overlap() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    assert overlap(q.log(), p.log()).item() == pytest.approx(0.75)


def test_chain_by_hand() -> None:
    # Positions 0 to 4, targets 1 to 4, two slots. Anchor 0 drafts targets 1 and 2, anchor 1 targets 2 and 3, and so on.
    slot_R = torch.tensor([1, 1, 1, 1, 2, 2, 2, 2])
    anchor_R = torch.tensor([1, 2, 3, 4, 1, 2, 3, 4]) - slot_R
    valid_R = torch.tensor([True, True, True, True, False, True, True, True])
    correct_R = torch.tensor([True, False, True, True, True, True, True, False])
    # Slot 1 is tried at anchors 0 to 3 and right at 0, 2 and 3. Slot 2 is tried at anchor 0 (target 2: right) and
    # anchor 2 (target 4: wrong), not at 1, whose slot 1 was wrong, nor at 3, whose second target does not exist.
    tried_S, kept_S = chained(correct_R, valid_R, anchor_R, slot_R, slots=2, positions=5)
    assert tried_S.tolist() == [4, 2]
    assert kept_S.tolist() == [3, 1]


def test_chain_equals_following_each_anchor() -> None:
    g = torch.Generator().manual_seed(1)
    slots, positions = 4, 40
    # Of every anchor some slots, in no order; anchors before the first position are invalid.
    pairs = [(a, s) for a in range(-slots, positions) for s in range(1, slots + 1)]
    pairs = [pairs[i] for i in torch.randperm(len(pairs), generator=g)[:150].tolist()]
    anchor_R, slot_R = torch.tensor(pairs).unbind(1)
    valid_R = (torch.rand(150, generator=g) > 0.1) & (anchor_R >= 0)
    correct_R = torch.rand(150, generator=g) > 0.2
    tried, kept = [0] * slots, [0] * slots
    for anchor in range(positions):
        for s in range(1, slots + 1):
            if (anchor, s) not in pairs or not valid_R[pairs.index((anchor, s))]:
                break
            tried[s - 1] += 1
            if not correct_R[pairs.index((anchor, s))]:
                break
            kept[s - 1] += 1
    assert min(tried) > 0
    tried_S, kept_S = chained(correct_R, valid_R, anchor_R, slot_R, slots, positions)
    assert (tried_S.tolist(), kept_S.tolist()) == (tried, kept)
