"""What training does to every algorithm's draft, and to nothing else."""

import torch
from torch import nn

from speculators.settings.training import Muon
from speculators.train.optimizer import build
from speculators.verifier.in_process import Verifier

from .conftest import Case, student


def test_gradients_reach_the_whole_draft_and_no_verifier(either: Case) -> None:
    """Every trainable tensor gets a finite gradient that is not zero; the verifier gets none."""
    model = either.shaken()
    student(either, model).learn([either.batch(either.texts[:2], either.texts[2:])], 0.5)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), name
    for name, parameter in either.verifier.model.named_parameters():
        assert not parameter.requires_grad and parameter.grad is None, name


def test_a_step_moves_the_whole_draft_and_no_verifier(either: Case) -> None:
    """One update changes every trainable tensor and leaves the verifier bit for bit."""
    model = either.fresh()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    frozen = {n: p.clone() for n, p in either.verifier.model.named_parameters()}
    trained = student(either, model)
    optimizers = build(model, either.run.optimizer)
    trained.learn([either.batch(either.texts)], 0.5)
    trained.update(optimizers, either.run.trainer.max_grad_norm)
    assert [n for n, p in model.named_parameters() if torch.equal(p, before[n])] == []
    assert [n for n, p in either.verifier.model.named_parameters() if not torch.equal(p, frozen[n])] == []


def test_muon_takes_every_linear_map_except_the_vocabulary_heads(either: Case) -> None:
    """The heads are those that the rows are multiplied with, whatever their names."""
    model = either.fresh()
    terms = either.rows(model, either.batch(either.texts)).terms
    heads = {weight.data_ptr() for term in terms for weight in term.weights}
    muon = build(model, Muon(name="muon", lr=0.02, momentum=0.9, weight_decay=0.0, adamw_lr=0.003))[0]
    linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    expected = {weight.data_ptr() for weight in linear} - heads
    assert {p.data_ptr() for group in muon.param_groups for p in group["params"]} == expected


def test_one_batch_is_learnt_by_heart(overfit) -> None:
    """The composed optimizer brings the loss down to a part, and slot 1 to more than nine in ten."""
    assert overfit.losses[-1] < 0.1 * overfit.losses[0]
    assert overfit.accuracy_S[0] > 0.9


def test_batches_cut_otherwise_give_the_same_gradient(either: Case) -> None:
    """Two micro-batches of uneven size add up to the gradient of one batch, with what is random in training."""
    long, short = either.texts[1:], either.texts[:1]
    grads = []
    for batches in ([either.batch(long, short)], [either.batch(long), either.batch(short, first=1)]):
        model = either.shaken().train()
        student(either, model).learn(batches, 0.5)
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name in grads[0]:
        torch.testing.assert_close(
            grads[1][name], grads[0][name], rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_verifier_in_half_precision_is_drafted_for(either: Case) -> None:
    """With bfloat16 states, what accelerators compute, a float32 draft trains and decodes; so does one loaded like them."""
    settings = either.run.verifier.model_copy(update={"dtype": "bfloat16"})
    half = Case(either.run, either.facts, Verifier.load(settings, torch.device("cpu")))
    model = either.shaken().train()
    student(half, model).learn([half.batch(half.texts)], 0.5)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    for draft in (model.eval(), model.to(torch.bfloat16)):
        decoded = half.decoder(draft, 6)([[3, 1, 4], [1, 5]])
        assert [len(tokens) for tokens in decoded.tokens] == [6, 6]
