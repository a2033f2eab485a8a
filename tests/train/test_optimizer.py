import pytest
import torch
from torch import nn

from speculators.settings.training import AdamW, Muon
from speculators.train.optimizer import OrthogonalMomentum, build, orthogonalise


class Draft(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(7, 4)
        self.fc = nn.Linear(8, 4)
        self.norm = nn.RMSNorm(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.out = nn.Linear(4, 7, bias=False)

    @property
    def heads(self):
        return (self.out.weight,)


ADAMW = AdamW(name="adamw", lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.5)
MUON = Muon(name="muon", lr=0.02, momentum=0.9, weight_decay=0.1, adamw_lr=0.003)


@pytest.mark.parametrize("shape", [(6, 6), (3, 8), (8, 3)])
def test_orthogonalise_keeps_the_singular_vectors_and_levels_the_values(shape):
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    got = orthogonalise(u @ torch.diag(torch.linspace(0.3, 3, min(shape))) @ vh)
    values = torch.diag(u.mT @ got @ vh.mT)
    assert torch.allclose(u @ torch.diag(values) @ vh, got, atol=1e-4)
    # The polynomial trades exactness for speed: values end between about 0.7 and 1.2.
    assert values.min() > 0.6 and values.max() < 1.3


def test_muon_agrees_with_torch():
    """torch.optim.Muon iterates in bfloat16: equal up to its rounding."""
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(6, 4)) for _ in range(2))
    a = OrthogonalMomentum([ours], lr=0.1, momentum=0.9, weight_decay=0.1)
    # torch averages momentum with (1 - momentum); the update is orthogonalised, so only the direction counts.
    b = torch.optim.Muon([theirs], lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)
    for _ in range(3):
        gradient = torch.randn(6, 4)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        a.step()
        b.step()
    assert torch.allclose(ours, theirs, atol=6e-3)
    assert (ours - 1).abs().max() > 0.2


def names(model: nn.Module, parameters: list) -> set[str]:
    by_id = {id(p): n for n, p in model.named_parameters()}
    return {by_id[id(p)] for p in parameters}


def test_adamw_decays_matrices_only_and_leaves_out_what_is_frozen():
    model = Draft()
    (optimizer,) = build(model, ADAMW)
    wide, narrow = optimizer.param_groups
    assert names(model, wide["params"]) == {"embed_tokens.weight", "fc.weight", "out.weight"}
    assert names(model, narrow["params"]) == {"fc.bias", "norm.weight"}
    assert (wide["weight_decay"], narrow["weight_decay"], wide["peak_lr"]) == (0.5, 0.0, 0.1)


def test_muon_takes_hidden_matrices_and_adamw_the_rest():
    model = Draft()
    muon, adamw = build(model, MUON)
    assert names(model, muon.param_groups[0]["params"]) == {"fc.weight"}
    rest = [p for g in adamw.param_groups for p in g["params"]]
    assert names(model, rest) == {"embed_tokens.weight", "fc.bias", "norm.weight", "out.weight"}
    assert (muon.param_groups[0]["peak_lr"], adamw.param_groups[0]["peak_lr"]) == (0.02, 0.003)
