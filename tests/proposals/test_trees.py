"""The shapes of trees: by hand, and against all paths of a table."""

import math
from itertools import product

import pytest
import torch
from contract.tables import Table, TableDrafter, Text, no_context, node_texts
from pydantic import ValidationError

from speculators.proposals.dynamic_tree import DynamicTreeTokenProposalConfig
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.proposals.static_tree import StaticTreeTokenProposalConfig
from speculators.protocols.draft import Draft
from speculators.protocols.drafter import Context, Predictions

GREEDY = Sampler(0.0, torch.Generator())
# The tree of EAGLE-1's published results, its 25 nodes by their ranks.
EAGLE_1 = [
    [0], [1], [2], [3],
    [0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0], [2, 1], [3, 0],
    [0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 2, 0], [0, 2, 1], [1, 0, 0],
    [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2],
    [0, 0, 0, 0, 0], [0, 0, 0, 0, 1],
]  # fmt: skip


def draft(config: StaticTreeTokenProposalConfig | DynamicTreeTokenProposalConfig, *tables: Table) -> Draft:
    """What a method drafts from tables."""
    return ProposalMethod.of(config, GREEDY).draft(TableDrafter(list(tables)), no_context(len(tables)))


def ranks(table: Table, text: Text) -> Text:
    """The rank of each token of a text among its siblings."""
    found: Text = ()
    for i, token in enumerate(text):
        logits = table.logits(text[:i])
        found += (sum(other > logits[token] for other in logits),)
    return found


@pytest.mark.parametrize("paths", [None, EAGLE_1])
def test_a_static_tree_holds_the_tokens_of_its_ranks(paths: list[list[int]] | None) -> None:
    """The defaults' 4 * (1 + 2 + 4 + 8 + 16) = 124 nodes, and a tree given node by node."""
    config = StaticTreeTokenProposalConfig(paths=paths)
    assert config.nodes == (124 if paths is None else 25) and config.levels == 5
    tables = [Table("a", 9), Table("b", 9)]
    tree = draft(config, *tables)
    due = {tuple(path) for path in paths or []}
    for level in () if paths else range(1, 6):
        due |= set(product(*[range(4), *[range(2)] * (level - 1)]))
    for row, table in enumerate(tables):
        assert tree.valid()[row].all()
        assert {ranks(table, text) for text in node_texts(tree, row)} == due


def test_ranks_beyond_the_drafts_vocabulary_are_left_out() -> None:
    """Of three tokens, one of them unknown to the draft, two children are there."""

    class Partial(TableDrafter):
        def _predict(self) -> Predictions:
            predictions = super()._predict()
            predictions.logits_BNV[..., 1] = -torch.inf
            return predictions

    for config in (
        StaticTreeTokenProposalConfig(initial_branching_factor=4, branching_factor=3, depth=2),
        DynamicTreeTokenProposalConfig(speculative_tokens=12, expansion_factor=4, depth=2),
    ):
        tree = ProposalMethod.of(config, GREEDY).draft(Partial([Table("a", 3)]), no_context(1))
        texts = [t for t, valid in zip(node_texts(tree, 0), tree.valid()[0], strict=True) if valid]
        assert sorted(texts) == sorted([(0,), (2,), (0, 0), (0, 2), (2, 0), (2, 2)])


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "at least one"),
        ([[0], [0]], "each only once"),
        ([[1]], r"\[1\] needs \[0\]"),
        ([[0], [0, 1]], r"\[0, 1\] needs \[0, 0\]"),
        ([[0], [1, 0]], r"\[1, 0\] needs \[1\]"),
        ([[0], [0, 0, 0]], r"\[0, 0, 0\] needs \[0, 0\]"),
        ([[]], "needs"),
        ([[-1]], r"\[-1\] needs"),
        ([[0]], "depth: must be 1"),
    ],
)
def test_paths_that_are_no_tree_are_refused(paths: list[list[int]], message: str) -> None:
    """With the path that is wrong, and what is missing."""
    with pytest.raises(ValidationError, match=message):
        StaticTreeTokenProposalConfig(paths=paths, depth=5)


class ByHand(TableDrafter):
    """Level 1: A .6, B .3; after A .5 and .4; after B .9 and .05."""

    def __init__(self) -> None:
        super().__init__([Table("unused", 3)])

    def _predict(self) -> Predictions:
        rows = {(): [0.6, 0.3, 0.1], (0,): [0.5, 0.4, 0.1], (1,): [0.9, 0.05, 0.05]}
        return Predictions(torch.tensor([[rows.get(text, [0.4, 0.35, 0.25]) for text in self.level[0]]]).log())


def test_a_dynamic_tree_is_that_of_a_case_by_hand() -> None:
    """Values A .6, B .3, Aa .30, Ba .27, Ab .24, Bb .015. Of three nodes, A, B and Aa; the fourth is Ba. Aa and Ba go on."""
    for tokens, due in ((3, {(0,), (1,), (0, 0)}), (4, {(0,), (1,), (0, 0), (1, 0)})):
        config = DynamicTreeTokenProposalConfig(speculative_tokens=tokens, expansion_factor=2, depth=2)
        tree = ProposalMethod.of(config, GREEDY).draft(ByHand(), no_context(1))
        assert set(node_texts(tree, 0)) == due

    class Seen(ByHand):
        expanded: list[set[Text]] = []

        def expand(self, token_BN: torch.Tensor, parent_BN: torch.Tensor) -> Predictions:
            found = super().expand(token_BN, parent_BN)
            self.expanded.append(set(self.level[0]))
            return found

        def extend(self, context: Context, depth: int) -> Predictions:
            self.expanded.clear()
            return super().extend(context, depth)

    drafter = Seen()
    config = DynamicTreeTokenProposalConfig(speculative_tokens=10, expansion_factor=2, depth=3)
    ProposalMethod.of(config, GREEDY).draft(drafter, no_context(1))
    assert drafter.expanded == [{(0,), (1,)}, {(0, 0), (1, 0)}]


@pytest.mark.parametrize("tokens", [1, 3, 7, 20])
def test_a_dynamic_tree_is_the_most_likely_of_all(tokens: int) -> None:
    """With as many children as tokens and as many nodes expanded as there are, the tokens of highest path probability."""
    tables = [Table(f"{i}", 3, spread=3.0) for i in range(20)]
    # 9 nodes of the second level are all there are: none is cut before the last choice.
    config = DynamicTreeTokenProposalConfig(speculative_tokens=tokens, expansion_factor=9, depth=min(tokens, 3))
    tree = draft(config, *tables)
    for row, table in enumerate(tables):
        values = {}
        for depth in range(1, config.depth + 1):
            for text in product(range(3), repeat=depth):
                values[text] = math.prod(table.probs(text[:i])[text[i]] for i in range(depth))
        best = sorted(values, key=lambda text: -values[text])[:tokens]
        assert set(node_texts(tree, row)) == set(best)


def test_ties_go_to_the_node_that_was_drafted_first() -> None:
    """A certain token's child is as likely as itself: the parent is kept, and a tree remains."""

    class Certain(TableDrafter):
        def _predict(self) -> Predictions:
            logits_BNV = torch.full((1, len(self.level[0]), 3), -torch.inf)
            logits_BNV[..., 2] = 0.0
            return Predictions(logits_BNV)

    config = DynamicTreeTokenProposalConfig(speculative_tokens=4, expansion_factor=3, depth=4)
    tree = ProposalMethod.of(config, GREEDY).draft(Certain([Table("unused", 3)]), no_context(1))
    assert node_texts(tree, 0) == [(2,), (2, 2), (2, 2, 2), (2, 2, 2, 2)] and tree.valid().all()


def test_sizes_that_cannot_be_filled_are_named() -> None:
    """More tokens than candidates; a longer path than tokens."""
    too_many = DynamicTreeTokenProposalConfig(speculative_tokens=7, expansion_factor=2, depth=2)
    assert [key for key, *_ in too_many.problems(0.0)] == ["speculative_tokens"] and too_many.nodes == 6
    too_deep = DynamicTreeTokenProposalConfig(speculative_tokens=3, expansion_factor=2, depth=4)
    assert [key for key, *_ in too_deep.problems(0.0)] == ["depth"]
