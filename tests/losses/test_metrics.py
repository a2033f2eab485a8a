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
    target_N = torch.tensor([1, 2, 3, 4])
    valid_SN = torch.tensor([[True, True, True, True], [False, True, True, True]])
    correct_SN = torch.tensor([[True, False, True, True], [True, True, True, False]])
    # Slot 1 is tried at anchors 0 to 3 and right at 0, 2 and 3. Slot 2 is tried at anchor 0 (target 2: right) and
    # anchor 2 (target 4: wrong), not at 1, whose slot 1 was wrong, nor at 3, whose second target does not exist.
    tried_S, kept_S = chained(correct_SN, valid_SN, target_N, positions=5)
    assert tried_S.tolist() == [4, 2]
    assert kept_S.tolist() == [3, 1]


def test_chain_equals_following_each_anchor() -> None:
    g = torch.Generator().manual_seed(1)
    slots, positions = 4, 40
    target_N = torch.randperm(positions, generator=g)[:30].sort().values
    valid_SN = (torch.rand(slots, 30, generator=g) > 0.2) & (target_N >= torch.arange(1, slots + 1).unsqueeze(1))
    correct_SN = torch.rand(slots, 30, generator=g) > 0.4
    rows = {(int(t) - s, s): (s - 1, n) for n, t in enumerate(target_N) for s in range(1, slots + 1)}
    tried, kept = [0] * slots, [0] * slots
    for anchor in range(positions):
        for s in range(1, slots + 1):
            row = rows.get((anchor, s))
            if row is None or not valid_SN[row]:
                break
            tried[s - 1] += 1
            if not correct_SN[row]:
                break
            kept[s - 1] += 1
    tried_S, kept_S = chained(correct_SN, valid_SN, target_N, positions)
    assert (tried_S.tolist(), kept_S.tolist()) == (tried, kept)
