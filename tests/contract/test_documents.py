"""A document in a packed batch knows nothing of its neighbours."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from speculators.data.template import Document
from speculators.losses.distillation import distill
from speculators.model import SpeculatorModel
from speculators.protocols.batch import Batch
from speculators.protocols.hidden_states import VerifierStates

from .conftest import VOCAB, Case


def of_document(batch: Batch, number: int) -> Tensor:
    """[R] bool, the rows of one document that count."""
    return (batch.document_BT.flatten()[batch.rows.target_R] == number) & batch.rows.valid_R


def document_loss(case: Case, model: SpeculatorModel, batch: Batch, states: VerifierStates, number: int) -> Tensor:
    """What the whole draft and all divergences make of one document's rows."""
    only = replace(batch, rows=replace(batch.rows, valid_R=of_document(batch, number)))
    rows = case.output(model, batch, states).rows
    every = dict.fromkeys(type(case.run.algorithm.loss).model_fields, 1.0)
    with torch.no_grad():
        return sum(distill(r, only, states, case.verifier.head, every, 1.0).loss for r in rows.values())


def document_rows(case: Case, model: SpeculatorModel, batch: Batch, number: int) -> dict[tuple[int, int], Tensor]:
    """Each valid row of one document, by its target's position in the document and its slot: all that its logits read."""
    terms = [term for rows in case.output(model, batch).rows.values() for term in rows.terms]
    input_RI = torch.cat([term.input_RI for term in terms], dim=-1)
    position_R = batch.position_BT.flatten()[batch.rows.target_R]
    chosen = of_document(batch, number).nonzero().flatten().tolist()
    return {(int(position_R[r]), int(batch.rows.slot_R[r])): input_RI[r] for r in chosen}


def assert_close(new: dict[tuple[int, int], Tensor], old: dict[tuple[int, int], Tensor], tolerance: float) -> None:
    """The rows that both have, some of them, are equal."""
    both = new.keys() & old.keys()
    assert both
    for row in both:
        torch.testing.assert_close(new[row], old[row], rtol=tolerance, atol=tolerance)


def other_text(document: Document) -> Document:
    """As long and as much supervised, with every token another."""
    return Document([(t + 5) % VOCAB for t in document.tokens], document.supervised)


@pytest.mark.parametrize("changed", [0, 1], ids=["the_one_before", "the_one_after"])
def test_another_neighbour_changes_nothing(either: Case, changed: int) -> None:
    """With every token of one document another, the rows and the loss of the other are the same."""
    model, documents = either.shaken(), either.texts[:2]
    other = [other_text(d) if i == changed else d for i, d in enumerate(documents)]
    before, after = either.batch(documents), either.batch(other)
    stays, moves = 1 - changed, changed
    old, new = (document_rows(either, model, b, stays) for b in (before, after))
    assert len(old) > 10 and old.keys() == new.keys() and any(row.any() for row in old.values())
    assert_close(new, old, 1e-6)
    losses = [document_loss(either, model, b, either.verifier(b, model.layer_ids), stays) for b in (before, after)]
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-6)
    old, new = (document_rows(either, model, b, moves) for b in (before, after))
    assert any(not torch.allclose(new[row], old[row], atol=1e-2) for row in old)


def test_states_of_a_neighbour_change_nothing(either: Case) -> None:
    """Noise on one document's states does not reach the other's loss, wherever the draft reads them."""
    model, batch = either.shaken(), either.batch(either.texts[:2])
    states = either.verifier(batch, model.layer_ids)
    noise_BT1 = (batch.document_BT == 0).unsqueeze(-1) * 3.0
    aux_BTA = None if states.aux_BTA is None else states.aux_BTA + noise_BT1
    noisy = VerifierStates(states.last_BTH + noise_BT1, aux_BTA)
    before, after = (document_loss(either, model, batch, s, 1) for s in (states, noisy))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    assert document_loss(either, model, batch, noisy, 0) != document_loss(either, model, batch, states, 0)


def test_packed_is_as_alone(either: Case) -> None:
    """Side by side, or in a sequence of its own beside a longer one: each document has the rows that it has alone."""
    model, documents = either.shaken(), either.texts
    packed = either.batch([documents[0], documents[1]], [documents[2]], [documents[3]])
    assert (packed.document_BT == -1).any()
    for number, document in enumerate(documents):
        alone = document_rows(either, model, either.batch([document]), 0)
        assert_close(document_rows(either, model, packed, number), alone, 1e-4)
