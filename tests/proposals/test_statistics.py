"""The code that runs, with its own random numbers: 200,000 texts by each method, and mutants that such a test must reject."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from speculators.proposals import acceptance
from speculators.proposals.base import TokenProposalConfig
from speculators.proposals.dynamic_tree import DynamicTreeTokenProposalConfig
from speculators.proposals.greedy import GreedyTokenProposalConfig
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.proposals.sampling import SamplingTokenProposalConfig
from speculators.proposals.static_tree import StaticTreeTokenProposalConfig
from speculators.protocols.draft import Draft
from speculators.protocols.drafter import Context, Predictions

DRAWS, VOCAB, LENGTH = 200_000, 3, 3
METHODS: dict[str, TokenProposalConfig] = {
    "greedy": GreedyTokenProposalConfig(speculative_tokens=2),
    "sampling": SamplingTokenProposalConfig(speculative_tokens=2),
    "block": SamplingTokenProposalConfig(speculative_tokens=2, rejection_sample_method="block"),
    "static tree": StaticTreeTokenProposalConfig(initial_branching_factor=2, branching_factor=2, depth=2),
    "dynamic tree": DynamicTreeTokenProposalConfig(speculative_tokens=4, expansion_factor=2, depth=2),
}
# Chance that any of the tests that must pass fails by bad luck; each gets its part of it (Bonferroni).
LEVEL = 1e-3 / (2 * len(METHODS))


def language(seed: int) -> list[Tensor]:
    """Logits after every text: of length n at [V ** n, V], a text being a number of n digits."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(VOCAB**n, VOCAB, generator=generator) * 1.2 for n in range(LENGTH)]


@dataclass
class Vectorised:
    """A drafter of many sequences at once, all of one language."""

    logits: list[Tensor]
    number_BN: Tensor = field(init=False)
    level: int = 0

    def select(self, rows: Tensor) -> None:
        raise AssertionError("one round alone")

    def extend(self, context: Context, depth: int) -> Predictions:
        self.number_BN = torch.zeros_like(context.token_BT)
        return Predictions(self.logits[0][self.number_BN])

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        self.level += 1
        self.number_BN = self.number_BN.gather(1, parent_BN) * VOCAB + token_BN
        return Predictions(self.logits[self.level][self.number_BN])


def texts(config: TokenProposalConfig, sampler: Sampler, p: list[Tensor], q: list[Tensor]) -> Tensor:
    """[DRAWS] texts of LENGTH tokens as numbers: a round's, continued by the verifier."""
    zero_B1 = torch.zeros(DRAWS, 1, dtype=torch.int64)
    method = ProposalMethod.of(config, sampler)
    draft: Draft = method.draft(Vectorised(q), Context(zero_B1, zero_B1, None, zero_B1, zero_B1 == 0))
    # The number and the level of each node's text.
    parent_BM, number_BP, level_BP = draft.parents(), zero_B1, zero_B1
    for m in range(draft.token_BM.shape[1]):
        above_B1 = parent_BM[:, m : m + 1] + 1
        number_BP = torch.cat((number_BP, number_BP.gather(1, above_B1) * VOCAB + draft.token_BM[:, m : m + 1]), dim=1)
        level_BP = torch.cat((level_BP, level_BP.gather(1, above_B1) + 1), dim=1)
    logits_BPV = torch.stack([logits[number_BP % len(logits)] for logits in p])
    logits_BPV = logits_BPV.gather(0, level_BP[None, :, :, None].expand(1, -1, -1, VOCAB))[0]
    verdict = method.judge(draft, logits_BPV)
    number_B, length_B = torch.zeros(DRAWS, dtype=torch.int64), verdict.accepted_B
    for node_B in verdict.node_BD.unbind(1):
        token_B = draft.token_BM.gather(1, node_B.clamp_min(0).unsqueeze(1)).squeeze(1)
        number_B = torch.where(node_B >= 0, number_B * VOCAB + token_B, number_B)
    number_B, length_B = number_B * VOCAB + verdict.token_B, length_B + 1
    for length in range(1, LENGTH):
        goes_on_B = length_B <= length
        own_BV = sampler.probs(p[length][torch.where(goes_on_B, number_B, 0)])
        token_B = torch.multinomial(own_BV, 1, generator=sampler.generator).squeeze(1)
        number_B = torch.where(goes_on_B, number_B * VOCAB + token_B, number_B)
    return number_B


def p_value(number_B: Tensor, sampler: Sampler, p: list[Tensor]) -> float:
    """Of Pearson's test that texts are distributed as the verifier's."""
    due = torch.ones(1, dtype=torch.float64)
    for logits in p:
        due = (due.unsqueeze(1) * sampler.probs(logits).double()).flatten()
    counted = torch.bincount(number_B, minlength=len(due)).double()
    assert counted[due == 0].sum() == 0
    due, counted = due[due > 0] * len(number_B), counted[due > 0]
    statistic = ((counted - due) ** 2 / due).sum()
    return torch.special.gammaincc(torch.tensor((len(due) - 1) / 2).double(), statistic / 2).item()


def measured(config: TokenProposalConfig, sampler: Sampler) -> float:
    """p-value of one method's texts."""
    p, q = language(1), language(2)
    return p_value(texts(config, sampler, p, q), sampler, p)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("cut", [False, True], ids=["temperature", "top-k and top-p"])
def test_texts_are_distributed_as_the_verifiers(name: str, cut: bool) -> None:
    """At a temperature, and with the verifier's distribution cut."""
    generator = torch.Generator().manual_seed(3)
    sampler = Sampler(0.8, generator, top_k=2, top_p=0.9) if cut else Sampler(0.8, generator)
    assert measured(METHODS[name], sampler) > LEVEL


def no_residual(p_BV: Tensor, q_BV: Tensor | None, token_B1: Tensor, lenience: float) -> tuple[Tensor, Tensor]:
    """What is rejected is forgotten: the next token is sampled from p."""
    return RIGHT(p_BV, q_BV, token_B1, lenience)[0], p_BV


def swapped(p_BV: Tensor, q_BV: Tensor | None, token_B1: Tensor, lenience: float) -> tuple[Tensor, Tensor]:
    """p for q."""
    q_BV = torch.ones_like(p_BV) if q_BV is None else q_BV
    return RIGHT(q_BV, p_BV, token_B1, lenience)[0], RIGHT(p_BV, q_BV, token_B1, lenience)[1]


def not_normalised(p_BV: Tensor, q_BV: Tensor | None, token_B1: Tensor, lenience: float) -> tuple[Tensor, Tensor]:
    """A second sibling is judged by what is left of p as it is."""
    chance_B, _ = RIGHT(p_BV, q_BV, token_B1, lenience)
    return chance_B, p_BV.scatter(1, token_B1, 0.0) if q_BV is None else (p_BV - q_BV).clamp_min(0)


RIGHT = acceptance._judge
MUTANTS = [("sampling", no_residual), ("sampling", swapped), ("static tree", no_residual)]
MUTANTS += [("static tree", not_normalised), ("dynamic tree", not_normalised), ("greedy", no_residual)]


@pytest.mark.parametrize(("name", "mutant"), MUTANTS)
def test_mutants_are_rejected(name: str, mutant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same test at the same size, on code that is wrong in one place."""
    monkeypatch.setattr(acceptance, "_judge", mutant)
    assert measured(METHODS[name], Sampler(0.8, torch.Generator().manual_seed(3))) < 1e-9


@pytest.mark.parametrize("name", ["sampling", "static tree", "block"])
def test_judging_a_token_twice_is_rejected(name: str) -> None:
    """A second coin for what was rejected."""

    class Twice(Sampler):
        def coin(self, chance: Tensor) -> Tensor:
            return super().coin(chance) | super().coin(chance)

    assert measured(METHODS[name], Twice(0.8, torch.Generator().manual_seed(3))) < 1e-9


def test_the_p_value_is_pearsons() -> None:
    """By hand: counts 60 and 40 of a fair coin, statistic 4 with one degree of freedom: erfc(sqrt 2)."""
    coin = [torch.zeros(1, 2)]
    number_B = torch.tensor([0] * 60 + [1] * 40)
    assert p_value(number_B, Sampler(1.0, torch.Generator()), coin) == pytest.approx(math.erfc(math.sqrt(2)), rel=1e-9)
