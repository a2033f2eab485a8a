"""The rules of acceptance, over every outcome: probabilities worked out by hand, and laws in rational numbers."""

from collections import defaultdict
from fractions import Fraction
from itertools import product

import pytest
import torch
from contract.outcomes import outcomes
from contract.tables import Text
from torch import Tensor

from speculators.proposals.acceptance import follow, sampled_verdict
from speculators.proposals.sampler import Sampler
from speculators.proposals.sampling.block import block_verdict
from speculators.protocols.draft import Draft, Verdict

P, Q = [Fraction(x, 10) for x in (5, 3, 2)], [Fraction(x, 10) for x in (1, 3, 6)]


def logits(probs: list[Fraction]) -> list[float]:
    """Whose softmax is these probabilities, in float64."""
    return torch.tensor([float(p) for p in probs], dtype=torch.float64).log().tolist()


def one_level(children: int, replacement: bool, lenience: float = 1.0) -> tuple[float, list[float]]:
    """Chance that one of so many sampled children is accepted, and the law of the first token."""
    accepted, law = 0.0, [0.0] * 3

    def run(sampler: Sampler) -> tuple[int, int]:
        weight_BV = torch.tensor([[float(q) for q in Q]], dtype=torch.float64)
        tokens, left_BV = [], weight_BV.clone()
        for _ in range(children):
            tokens.append(int(sampler.draw(left_BV)))
            if not replacement:
                left_BV[0, tokens[-1]] = 0
        draft = Draft(
            torch.tensor([tokens]),
            torch.full((1, children), -1),
            prob_BMV=weight_BV.unsqueeze(1).expand(-1, children, -1),
        )
        logits_BPV = torch.tensor([[logits(P)] * (children + 1)], dtype=torch.float64)
        verdict = sampled_verdict(draft, logits_BPV, sampler, 1, children, lenience, replacement)
        node = int(verdict.node_BD[0, 0])
        return node, tokens[node] if node >= 0 else int(verdict.token_B[0])

    for chance, (node, token) in outcomes(run):
        accepted += chance * (node >= 0)
        law[token] += chance
    return accepted, law


# Worked out in rational numbers: what a rejected child leaves of P, and of Q where it is not put back.
@pytest.mark.parametrize(
    ("children", "replacement", "accepted"),
    [(1, False, 0.6), (2, False, 0.7), (3, False, 1.0), (1, True, 0.6), (2, True, 0.64), (3, True, 0.676)],
)
def test_siblings_are_accepted_as_often_as_by_hand(children: int, replacement: bool, accepted: float) -> None:
    """And the first token is distributed as the verifier's."""
    found, law = one_level(children, replacement)
    assert found == pytest.approx(accepted, abs=1e-12)
    assert law == pytest.approx([float(p) for p in P], abs=1e-12)


def test_children_that_were_chosen_are_accepted_by_the_verifiers_probability() -> None:
    """The draft's two most likely tokens, the third and the second: .2 + .3."""
    accepted, law = 0.0, [0.0] * 3
    draft = Draft(torch.tensor([[2, 1]]), torch.tensor([[-1, -1]]))
    logits_BPV = torch.tensor([[logits(P)] * 3], dtype=torch.float64)
    for chance, verdict in outcomes(lambda sampler: sampled_verdict(draft, logits_BPV, sampler, 1, 2)):
        node = int(verdict.node_BD[0, 0])
        accepted += chance * (node >= 0)
        law[[2, 1][node] if node >= 0 else int(verdict.token_B[0])] += chance
    assert accepted == pytest.approx(0.5, abs=1e-12)
    assert law == pytest.approx([float(p) for p in P], abs=1e-12)


def test_lenience_accepts_more_and_is_lossy() -> None:
    """min(1, p / (l q)) at l = 1/2, by hand: .1 + .3 + .4, and rejected is the third alone, for which the first is said."""
    found, law = one_level(1, False, lenience=0.5)
    assert found == pytest.approx(0.8, abs=1e-12)
    assert law == pytest.approx([0.3, 0.3, 0.4], abs=1e-12)


def table(seed: int, depth: int) -> dict[Text, list[Fraction]]:
    """A distribution of small whole weights after every text shorter than `depth`."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for length in range(depth):
        for text in product(range(3), repeat=length):
            weights = torch.randint(1, 9, (3,), generator=generator).tolist()
            found[text] = [Fraction(w, sum(weights)) for w in weights]
    return found


def chain(p: dict[Text, list[Fraction]], q: dict[Text, list[Fraction]], length: int, block: bool) -> dict[Text, float]:
    """The law of a round's text, with a sampled chain."""

    def run(sampler: Sampler) -> Text:
        text: Text = ()
        rows = []
        for _ in range(length):
            rows.append([float(x) for x in q[text]])
            text += (int(sampler.draw(torch.tensor([rows[-1]], dtype=torch.float64))),)
        draft = Draft(torch.tensor([text]), prob_BMV=torch.tensor([rows], dtype=torch.float64))
        logits_BPV = torch.tensor([[logits(p[text[:i]]) for i in range(length + 1)]], dtype=torch.float64)
        verdict: Verdict = (
            block_verdict(draft, logits_BPV, sampler)
            if block
            else sampled_verdict(draft, logits_BPV, sampler, length, 1)
        )
        return (*text[: int(verdict.accepted_B[0])], int(verdict.token_B[0]))

    law = defaultdict[Text, float](float)
    for chance, text in outcomes(run):
        law[text] += chance
    return law


@pytest.mark.parametrize("seed", range(4))
def test_chains_have_the_verifiers_law_and_a_block_is_no_shorter(seed: int) -> None:
    """Against the product of rational probabilities; and one token drafted is judged alike by both."""
    p, q = table(seed, 4), table(seed + 100, 4)
    means = {}
    for length, block in product((1, 2, 3), (False, True)):
        law = chain(p, q, length, block)
        for text in product(range(3), repeat=length + 1):
            due = Fraction(1)
            for i, token in enumerate(text):
                due *= p[text[:i]][token]
            found = 0.0
            for n in range(1, length + 2):
                rest = 1.0
                for i in range(n, length + 1):
                    rest *= float(p[text[:i]][text[i]])
                found += law.get(text[:n], 0.0) * rest
            assert found == pytest.approx(float(due), abs=1e-12)
        means[length, block] = sum(len(text) * chance for text, chance in law.items())
    assert means[1, True] == pytest.approx(means[1, False], abs=1e-12)
    assert means[2, True] > means[2, False] + 1e-6 and means[3, True] > means[3, False] + 1e-6


def test_the_mean_of_a_chain_with_equal_odds_is_a_geometric_sum() -> None:
    """With acceptance a at every token: (1 - a ** (K + 1)) / (1 - a) tokens, a = sum of min(p, q) = .6."""
    law = chain(defaultdict(lambda: P), defaultdict(lambda: Q), 3, block=False)
    mean = sum(len(text) * chance for text, chance in law.items())
    assert mean == pytest.approx((1 - 0.6**4) / 0.4, abs=1e-12)


def test_the_first_sibling_that_fits_is_followed() -> None:
    """By hand: two roots fit, of the first one's children the second; a node that is not there is not followed."""
    parent_BM = torch.tensor([[-1, -1, 0, 0, 1, 3], [-1, 0, 1, -1, 3, 3]])
    fits_BM = torch.tensor([[True, True, False, True, True, True], [True, True, True, True, False, True]])
    valid_BM = torch.tensor([[True] * 6, [False, False, False, True, True, True]])
    draft = Draft(torch.zeros(2, 6, dtype=torch.int64), parent_BM, valid_BM)
    assert follow(draft, fits_BM, 4).tolist() == [[0, 3, 5, -1], [3, 5, -1, -1]]


def test_top_k_and_top_p_are_cut_as_by_hand() -> None:
    """p = .5 .25 .15 .1: two likeliest; .8 needs three; top-p is of what top-k left; ties at the k-th stay."""
    logits_BV: Tensor = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()

    def probs(temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> list[float]:
        return Sampler(temperature, torch.Generator(), top_k, top_p).probs(logits_BV).tolist()

    assert probs(top_k=2) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert probs(top_p=0.8) == pytest.approx([0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0])
    assert probs(top_p=0.7) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    # Of top-k's two thirds and one third, .6 needs the first alone.
    assert probs(top_k=2, top_p=0.6) == pytest.approx([1, 0, 0, 0])
    assert probs(top_p=1e-6) == pytest.approx([1, 0, 0, 0])
    assert probs(temperature=0.5) == pytest.approx([25 / 34.5, 6.25 / 34.5, 2.25 / 34.5, 1 / 34.5])
    even = Sampler(1.0, torch.Generator(), top_k=1).probs(torch.zeros(3))
    assert even.tolist() == pytest.approx([1 / 3] * 3)
