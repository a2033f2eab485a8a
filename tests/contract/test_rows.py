"""Which rows every algorithm trains, and what each of them may see."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from speculators.protocols.batch import Batch
from speculators.protocols.hidden_states import VerifierStates
from speculators.settings.training import TrainerSettings
from speculators.train.batches import Batches
from speculators.train.order import Order, Place

from .conftest import VOCAB, Case

# Ways to cut eight sequences a step: batch size, micro-batches, processes.
SPLITS = [(8, 1, 1), (4, 2, 1), (1, 8, 1), (2, 2, 2), (2, 1, 4), (1, 1, 8)]


def rows_of(batch: Batch) -> list[Counter[tuple[int, int, int, bool]]]:
    """Each sequence's rows: anchor in the sequence, slot, group counted from the sequence's first, and whether it counts."""
    rows, width = batch.rows, batch.token_BT.shape[1]
    columns = [x.tolist() for x in (rows.anchor_R, rows.slot_R, rows.group_R, rows.valid_R)]
    # An invalid row may point out of its sequence; its group has rows that do not.
    sequence_of = {g: anchor // width for anchor, _, g, valid in zip(*columns, strict=True) if valid}
    first = [min((g for g, b in sequence_of.items() if b == own), default=0) for own in range(len(batch.token_BT))]
    found: list[Counter[tuple[int, int, int, bool]]] = [Counter() for _ in batch.token_BT]
    for anchor, slot, group, valid in zip(*columns, strict=True):
        b = sequence_of[group]
        found[b][anchor - b * width, slot, group - first[b], valid] += 1
    return found


def of_step(case: Case, split: tuple[int, int, int], seed: int, step: int) -> dict[int, tuple[Counter, int]]:
    """Rows and noise seed of each sequence of a step, by its number in the step, however the step is cut."""
    sequences = [[case.texts[i % 4], case.texts[(i + i // 4) % 4]] for i in range(24)]
    size, micro_batches, processes = split
    trainer = TrainerSettings.model_construct(
        epochs=1, max_steps=None, batch_size=size, gradient_accumulation_steps=micro_batches, sequences_per_step=None
    )
    order, batches = Order(24, seed, trainer, processes), Batches(sequences, case.plan, seed)
    found: dict[int, tuple[Counter, int]] = {}
    for process in range(processes):
        for places in order.of_step(step, process):
            batch = batches.of(places, step)
            for place, rows, noise in zip(places, rows_of(batch), batch.rows.seeds, strict=True):
                assert place.number not in found
                found[place.number] = rows, noise
    assert sorted(found) == list(range(8))
    return found


def test_the_plan_does_not_depend_on_how_a_step_is_cut(either: Case) -> None:
    """Every split into micro-batches and processes has the same rows of the same sequences, and the same noise."""
    whole = of_step(either, SPLITS[0], seed=3, step=1)
    for split in SPLITS[1:]:
        assert of_step(either, split, seed=3, step=1) == whole, split


def test_a_sampled_plan_is_new_in_each_step(either: Case) -> None:
    """With the same sequences; a plan that does not sample never changes."""
    text = either.texts[1:3]
    plans = [rows_of(either.batch(text, first=seed)) for seed in (1, 2, 1)]
    assert plans[0] == plans[2]
    sampled = plans[0] != plans[1]
    places = [rows_of(Batches([text], either.plan, 0).of([Place(0, 0)], step)) for step in (0, 1)]
    assert (places[0] != places[1]) == sampled


def test_rows_that_count_are_supervised_and_inside_their_document(either: Case) -> None:
    """By the definition, one by one: the token predicted is an answer's, the anchor is of the same document."""
    sequences = [either.texts[:3], either.texts[3:]]
    batch = either.batch(*sequences)
    width = batch.token_BT.shape[1]
    document = batch.document_BT.flatten().tolist()
    flags = [[flag for text in sequence for flag in text.supervised] for sequence in sequences]
    supervised = [flag for own in flags for flag in own + [False] * (width - len(own))]
    rows = batch.rows
    counted = 0
    for target, slot, valid in zip(rows.target_R.tolist(), rows.slot_R.tolist(), rows.valid_R.tolist(), strict=True):
        assert 0 <= target < len(document) and 1 <= slot <= either.run.algorithm.slots
        if valid:
            assert document[target - slot] == document[target] == document[target + 1] >= 0 and target >= slot
            assert supervised[target + 1]
            counted += 1
    assert counted > 20
    assert len(set(zip(rows.target_R.tolist(), rows.slot_R.tolist(), strict=True))) >= counted


def inputs(case: Case, batch: Batch, states: VerifierStates) -> Tensor:
    """[R, I] all that the logits of each row read."""
    output = case.output(case.shaken(), batch, states)
    return torch.cat([term.input_RI for rows in output.rows.values() for term in rows.terms], dim=-1)


@pytest.mark.parametrize("cut", [17, 24])
def test_no_row_sees_ahead(either: Case, cut: int) -> None:
    """States after its anchor and tokens after its target do not reach a row: decoding does not have them."""
    batch = either.batch(either.texts[3:])
    states = either.verifier(batch, either.shaken().layer_ids)
    after_1T1 = (torch.arange(batch.token_BT.shape[1]) >= cut)[None, :, None]
    aux_BTA = None if states.aux_BTA is None else states.aux_BTA + 3.0 * after_1T1
    changed = VerifierStates(states.last_BTH + 3.0 * after_1T1, aux_BTA)
    other_BT = torch.where(torch.arange(batch.token_BT.shape[1]) > cut, (batch.token_BT + 5) % VOCAB, batch.token_BT)
    before = inputs(either, batch, states)
    after = inputs(either, replace(batch, token_BT=other_BT), changed)
    rows = batch.rows
    blind_R = rows.valid_R & (rows.anchor_R < cut) & (rows.target_R <= cut)
    assert blind_R.any() and not blind_R.all()
    torch.testing.assert_close(after[blind_R], before[blind_R], rtol=0, atol=1e-6)
    assert not torch.allclose(after, before, atol=1e-2)
