"""Exact laws over three levels: every draft, every coin and every last token at once, against products of rational numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from speculators.proposals.acceptance import sampled_verdict
from speculators.proposals.sampler import Sampler
from speculators.proposals.sampling.block import block_verdict
from speculators.protocols.draft import Draft, Verdict

LEVELS = 3
Text = tuple[int, ...]
Table = dict[Text, list[Fraction]]
Judge = Callable[[Draft, Tensor, Sampler], Verdict]


class Outcomes(Sampler):
    """Each row takes the choices that are given for it, and has the probability of them; computes in float64.

    Args:
        chance_B: probability of each row's draft.
        coins_BC: what its coins show.
        last_B: the token that it draws.
    """

    def __init__(self, chance_B: Tensor, coins_BC: Tensor, last_B: Tensor) -> None:
        super().__init__(1.0, torch.Generator())
        self.chance_B, self.coins, self.last_B = chance_B, iter(coins_BC.unbind(1)), last_B

    def _scaled(self, logits: Tensor) -> Tensor:
        return logits.double()

    def coin(self, chance: Tensor) -> Tensor:
        shown_B, chance = next(self.coins), chance.nan_to_num(0.0).clamp(0, 1)
        self.chance_B = self.chance_B * torch.where(shown_B, chance, 1 - chance)
        return shown_B

    def draw(self, weight_BV: Tensor) -> Tensor:
        prob_BV = weight_BV / weight_BV.sum(1, keepdim=True)
        self.chance_B = self.chance_B * prob_BV.gather(1, self.last_B.unsqueeze(1)).squeeze(1)
        return self.last_B


def table(seed: int, vocab: int) -> Table:
    """A distribution of small whole weights after every text of up to three tokens; some tokens are impossible."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for length in range(LEVELS + 1):
        for text in product(range(vocab), repeat=length):
            weights = torch.randint(0, 9, (vocab,), generator=generator).tolist()
            weights[int(torch.randint(vocab, (1,), generator=generator))] += 1
            found[text] = [Fraction(w, sum(weights)) for w in weights]
    return found


@dataclass(frozen=True)
class Tree:
    """The shape of a draft, and how its tokens come about.

    Attributes:
        parents: of each node; -1 is the root.
        vocab: tokens of the tables.
        replacement: siblings may be drawn with the same token; None takes the most likely tokens instead.
    """

    parents: list[int]
    vocab: int
    replacement: bool | None

    @property
    def siblings(self) -> int:
        """Most children of a node."""
        return max(self.parents.count(parent) for parent in self.parents)

    def drafts(self, q: Table) -> list[tuple[Fraction, Text, list[Text]]]:
        """Every draft that is possible: its probability, its tokens, and the text before each of them."""
        found: list[tuple[Fraction, Text, list[Text]]] = [(Fraction(1), (), [])]
        for node, parent in enumerate(self.parents):
            longer = []
            for chance, tokens, before in found:
                text = () if parent < 0 else (*before[parent], tokens[parent])
                earlier = [tokens[n] for n in range(node) if self.parents[n] == parent]
                law = list(q[text])
                if self.replacement is not True:
                    law = [Fraction(0) if token in earlier else weight for token, weight in enumerate(law)]
                if self.replacement is None:
                    law = [Fraction(token == law.index(max(law))) for token in range(self.vocab)]
                longer += [
                    (chance * weight / sum(law), (*tokens, token), [*before, text])
                    for token, weight in enumerate(law)
                    if weight
                ]
            found = longer
        return found


def law_of_a_round(tree: Tree, p: Table, q: Table, judge: Judge) -> tuple[dict[Text, float], float]:
    """The probability of each text that a round writes, and the mean number of its tokens."""
    drafts, coins = tree.drafts(q), list(product([False, True], repeat=LEVELS * tree.siblings))
    each, ends = len(coins) * tree.vocab, torch.arange(tree.vocab).repeat(len(coins))

    def rows(x: Tensor) -> Tensor:
        return x.repeat_interleave(each, dim=0)

    def floats(values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    token_BM = rows(torch.tensor([tokens for _, tokens, _ in drafts]))
    prob_BMV = floats([[[float(x) for x in q[text]] for text in before] for *_, before in drafts])
    after = [
        [(), *((*text, token) for text, token in zip(before, tokens, strict=True))] for _, tokens, before in drafts
    ]
    logits_BPV = floats([[[float(x) for x in p[text]] for text in texts] for texts in after]).log()
    parent_BM = torch.tensor(tree.parents).expand_as(token_BM)
    draft = Draft(token_BM, parent_BM, prob_BMV=None if tree.replacement is None else rows(prob_BMV))
    chance_B = rows(floats([float(chance) for chance, *_ in drafts]))
    coins_BC = torch.tensor(coins).repeat_interleave(tree.vocab, dim=0).repeat(len(drafts), 1)
    sampler = Outcomes(chance_B, coins_BC, ends.repeat(len(drafts)))
    verdict = judge(draft, rows(logits_BPV), sampler)

    number_B, length_B = torch.zeros_like(sampler.last_B), verdict.accepted_B + 1
    for node_B in verdict.node_BD.unbind(1):
        token_B = token_BM.gather(1, node_B.clamp_min(0).unsqueeze(1)).squeeze(1)
        number_B = torch.where(node_B >= 0, number_B * tree.vocab + token_B, number_B)
    number_B = number_B * tree.vocab + verdict.token_B
    law: dict[Text, float] = {}
    for length in range(1, LEVELS + 2):
        own_B = length_B == length
        sums = torch.bincount(number_B[own_B], sampler.chance_B[own_B], tree.vocab**length).tolist()
        law |= dict(zip(product(range(tree.vocab), repeat=length), sums, strict=True))
    return law, (sampler.chance_B * length_B).sum().item()


def token_by_token(siblings: int, replacement: bool = False) -> Judge:
    """Each sibling after the other, level by level."""

    def judge(draft: Draft, logits_BPV: Tensor, sampler: Sampler) -> Verdict:
        return sampled_verdict(draft, logits_BPV, sampler, LEVELS, siblings, replacement=replacement)

    return judge


def check(law: dict[Text, float], p: Table, vocab: int) -> None:
    """A round's text, continued by the verifier, has the verifier's law, to rounding in float64."""
    assert sum(law.values()) == pytest.approx(1, abs=1e-12)
    for text in product(range(vocab), repeat=LEVELS + 1):
        # That the verifier goes on like this after the first n tokens.
        rest = [Fraction(1)]
        for i in range(LEVELS, -1, -1):
            rest.insert(0, rest[0] * p[text[:i]][text[i]])
        found = sum(law[text[:n]] * float(rest[n]) for n in range(1, LEVELS + 2))
        assert found == pytest.approx(float(rest[0]), abs=1e-12), text


CHAIN, PAIRS, PAIR = [-1, 0, 1], [-1, -1, 0, 0, 1, 2], [-1, -1, 1, 2]
BUSHY = [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
TREES = {
    "chain": Tree(CHAIN, 5, False),
    "siblings without replacement": Tree(PAIRS, 3, False),
    "siblings with replacement": Tree(PAIRS, 3, True),
    "siblings without replacement, 4 tokens": Tree(PAIR, 4, False),
    "siblings with replacement, 4 tokens": Tree(PAIR, 4, True),
    "chosen children": Tree(BUSHY, 5, None),
}


@pytest.mark.parametrize("name", TREES)
def test_three_levels_have_the_verifiers_law(name: str) -> None:
    """Of a chain, of siblings that were drawn in either way, and of all 14 children of a tree that were chosen."""
    tree = TREES[name]
    # Siblings without replacement need two tokens that are possible.
    p, q = table(1, tree.vocab), {text: [x + 1 for x in own] for text, own in table(2, tree.vocab).items()}
    q = {text: [x / sum(own) for x in own] for text, own in q.items()}
    law, _ = law_of_a_round(tree, p, q, token_by_token(tree.siblings, tree.replacement is True))
    check(law, p, tree.vocab)


def test_siblings_that_are_drawn_in_one_way_and_judged_in_the_other_are_rejected() -> None:
    """The laws tell the two rules apart."""
    for tree in (TREES["siblings without replacement"], TREES["siblings with replacement"]):
        p, q = table(1, 3), {text: [Fraction(w, 6) for w in (1, 2, 3)] for text in table(1, 3)}
        law, _ = law_of_a_round(tree, p, q, token_by_token(2, tree.replacement is not True))
        with pytest.raises(AssertionError):
            check(law, p, 3)


def mean_token_by_token(p: Table, q: Table, text: Text = ()) -> Fraction:
    """Mean number of accepted tokens after a text: each is accepted with probability min(1, p / q)."""
    if len(text) == LEVELS:
        return Fraction(0)
    shares = [min(a, b) for a, b in zip(p[text], q[text], strict=True)]
    return sum(
        (share * (1 + mean_token_by_token(p, q, (*text, token))) for token, share in enumerate(shares)), Fraction(0)
    )


def mean_of_blocks(p: Table, q: Table, vocab: int) -> Fraction:
    """Mean number of accepted tokens by arXiv:2403.10444: the longest prefix i that passes with h_i is accepted."""
    mean = Fraction(0)
    for tokens in product(range(vocab), repeat=LEVELS):
        chance, reach, passes = Fraction(1), Fraction(1), list[Fraction]()
        for i, token in enumerate(tokens):
            before, after = tokens[:i], tokens[: i + 1]
            chance *= q[before][token]
            if not chance:
                break
            reach = min(Fraction(1), reach * p[before][token] / q[before][token])
            excess = [max(Fraction(0), reach * a - b) for a, b in zip(p[after], q[after], strict=True)]
            below = sum(excess, Fraction(0)) + 1 - reach
            h = sum(excess, Fraction(0)) / below if below else Fraction(1)
            passes.append(reach if len(after) == LEVELS else h)
        if chance:
            none_longer = Fraction(1)
            for length in range(LEVELS, 0, -1):
                mean += chance * none_longer * passes[length - 1] * length
                none_longer *= 1 - passes[length - 1]
    return mean


@pytest.mark.parametrize("vocab", [3, 4, 5])
def test_a_blocks_law_and_mean(vocab: int) -> None:
    """Both rules' means as in rational numbers; the block's is the larger one."""
    p, q, tree = table(3, vocab), table(4, vocab), Tree(CHAIN, vocab, False)
    law, blocks = law_of_a_round(tree, p, q, block_verdict)
    check(law, p, vocab)
    assert blocks == pytest.approx(1 + float(mean_of_blocks(p, q, vocab)), abs=1e-12)
    _, tokens = law_of_a_round(tree, p, q, token_by_token(1))
    assert tokens == pytest.approx(1 + float(mean_token_by_token(p, q)), abs=1e-12)
    assert blocks > tokens + 1e-3


def test_a_block_that_the_verifier_agrees_with_is_accepted_whole() -> None:
    """p = q: 0 / 0 counts as 1."""
    p = table(5, 3)
    law, mean = law_of_a_round(Tree(CHAIN, 3, False), p, p, block_verdict)
    check(law, p, 3)
    assert mean == pytest.approx(LEVELS + 1, abs=1e-12)


def test_a_block_of_chosen_tokens_is_judged_as_token_by_token() -> None:
    """With a one-hot draft both rules accept as many tokens with the same probabilities."""
    p, ones = table(6, 4), [Fraction(0), Fraction(1), Fraction(0), Fraction(0)]
    q = dict.fromkeys(p, ones)
    laws = [law_of_a_round(Tree(CHAIN, 4, False), p, q, judge)[0] for judge in (block_verdict, token_by_token(1))]
    for text, chance in laws[0].items():
        assert chance == pytest.approx(laws[1][text], abs=1e-12)
