"""Decoding with every algorithm's drafter: counts, texts, and that it drafts what was trained."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from speculators.composition.compose import compose
from speculators.data.template import Document
from speculators.decoding.generate import Decoded, plain
from speculators.model import SpeculatorModel
from speculators.proposals import GreedyTokenProposalConfig, TokenProposalConfig
from speculators.proposals.chain import draft_chain, most_likely
from speculators.proposals.method import ProposalMethod
from speculators.protocols.draft import Draft, Verdict
from speculators.protocols.drafter import Context, Drafter, Predictions
from speculators.protocols.hidden_states import VerifierStates

from .conftest import VOCAB, Case, Overfit

TOKENS = 17
PROPOSALS = sorted(TokenProposalConfig.registry or {})


@dataclass
class Dictated:
    """A drafter that computes as ever, but whose predictions are read off known texts, shifted by `off` token ids."""

    drafter: Drafter
    texts: list[list[int]]
    off: int

    def select(self, rows: Tensor) -> None:
        """Only some sequences, and their texts."""
        self.drafter.select(rows)
        self.texts = [self.texts[i] for i in rows.tolist()]

    def extend(self, context: Context, depth: int) -> Predictions:
        """The last verified place carries the token at the position after it."""
        self.next = (context.position_BT[:, -1] + 2).tolist()
        return self._dictated(self.drafter.extend(context, depth))

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        """A level further."""
        self.next = [p + 1 for p in self.next]
        return self._dictated(self.drafter.expand(token_BN, parent_BN))

    def _dictated(self, own: Predictions) -> Predictions:
        assert own.logits_BNV.shape[::2] == (len(self.texts), VOCAB) and own.logits_BNV.isfinite().any(-1).all()
        told = [(text[p] + self.off) % VOCAB for text, p in zip(self.texts, self.next, strict=True)]
        one_hot_BV = torch.nn.functional.one_hot(torch.tensor(told), VOCAB).float()
        return Predictions(one_hot_BV.unsqueeze(1).expand_as(own.logits_BNV))


def prompts(case: Case) -> list[list[int]]:
    """Beginnings of the texts, of four lengths."""
    return [d.tokens[: d.supervised.index(True)] for d in case.texts]


def decode_dictated(case: Case, off: int) -> Decoded:
    """Decode with choices read off the verifier's own texts; its texts must be the verifier's."""
    model = case.shaken()
    own = plain(case.verifier, prompts(case), TOKENS + case.run.proposal.levels + 1, batch_size=4)
    texts = [[*p, *a] for p, a in zip(prompts(case), own, strict=True)]

    def dictated(batch_size: int) -> Dictated:
        return Dictated(model.drafter(case.verifier.head, batch_size), texts, off)

    decoded = case.decoder(model, TOKENS, dictated)(prompts(case))
    assert decoded.tokens == [a[:TOKENS] for a in own]
    return decoded


def test_a_perfect_draft_is_accepted_whole(either: Case) -> None:
    """Drafting what the verifier says gives the longest acceptance length there is, 1 + K."""
    decoded = decode_dictated(either, off=0)
    assert decoded.drafts > 0
    assert decoded.accepted == decoded.drafts * either.run.proposal.levels
    assert set(decoded.accepted_K) == {decoded.drafts}


def test_a_hopeless_draft_costs_nothing_but_time(either: Case) -> None:
    """Drafting anything else gives acceptance length 1, a pass a token, and the same text."""
    decoded = decode_dictated(either, off=1)
    assert decoded.accepted == 0
    assert decoded.drafts == 4 * (TOKENS - 1)


def test_a_batch_decodes_as_each_alone(overfit: Overfit) -> None:
    """Prompts of different lengths side by side: the tokens and the accepted counts that each has alone."""
    case, model = overfit.case, overfit.model
    # Some that were trained, and some of which the draft knows only parts.
    chosen = [*prompts(case), case.texts[3].tokens[:20], [5, *case.texts[2].tokens[:4]], [99]]
    decoder = case.decoder(model, TOKENS)
    together, alone = decoder(chosen), [decoder([p]) for p in chosen]
    assert together.tokens == [d.tokens[0] for d in alone] == plain(case.verifier, chosen, TOKENS, batch_size=1)
    assert together.drafts == sum(d.drafts for d in alone)
    assert together.accepted_K == [sum(counts) for counts in zip(*(d.accepted_K for d in alone), strict=True)]
    # Or there is nothing that could go wrong: some is accepted, some is not, and not of all alike.
    assert 0 < together.accepted < together.drafts * len(together.accepted_K)
    assert len({d.drafts for d in alone}) > 1


def context(case: Case, model: SpeculatorModel, tokens: list[int], start: int, end: int) -> Context:
    """Positions from `start` up to `end`, newly verified; the token at `end` was just sampled."""
    position_BT = torch.arange(end)[None]
    states = case.verifier.states(torch.tensor([tokens[:end]]), position_BT, model.layer_ids)
    aux_BTA = None if states.aux_BTA is None else states.aux_BTA[:, start:]
    return Context(
        torch.tensor([tokens[start:end]]),
        torch.tensor([tokens[start + 1 : end + 1]]),
        VerifierStates(states.last_BTH[:, start:], aux_BTA) if model.reads_states else None,
        position_BT[:, start:],
        torch.ones(1, end - start, dtype=torch.bool),
    )


@torch.no_grad()
def test_training_and_drafting_compute_the_same(either: Case) -> None:
    """Every slot's logits in training, over a document with the drafted tokens in it, are those of drafting."""
    model, slots, tokens = either.shaken(), either.run.algorithm.slots, either.texts[3].tokens
    drafter, start = model.drafter(either.verifier.head, 1), 0
    # In several rounds: what an earlier one speculated must leave no trace.
    for end in (1, 6, 7, 11, 20):
        drafting: list[Tensor] = []

        def greedy(logits_BV: Tensor, seen: list[Tensor] = drafting) -> tuple[Tensor, None]:
            seen.append(logits_BV)
            return most_likely(logits_BV)

        draft = draft_chain(drafter, context(either, model, tokens, start, end), slots, greedy)
        # With more tokens after them, which no row of this anchor sees: where rows thin out, a short document has no late slot.
        document = [*tokens[: end + 1], *draft.token_BM[0].tolist(), *tokens]
        # Where rows are sampled, not every seed has all of the anchor's.
        for seed in range(200):
            batch = either.batch([Document(document, [True] * len(document))], first=seed)
            own_R = batch.rows.valid_R & (batch.rows.anchor_R == end - 1)
            if own_R.sum() == slots:
                break
        logits_RV = either.logits(either.rows(model, batch), batch)[own_R]
        assert batch.rows.slot_R[own_R].tolist() == list(range(1, slots + 1))
        for slot in range(slots):
            torch.testing.assert_close(drafting[slot][0], logits_RV[slot], rtol=1e-3, atol=1e-3)
        start = end


@torch.no_grad()
def test_a_tree_is_drafted_as_each_of_its_paths(either: Case) -> None:
    """What the draft predicts after a node depends on the text and the node's path alone."""
    if not either.run.algorithm.drafts_trees:
        return
    model, tokens = either.shaken(), either.texts[3].tokens
    levels = [([7, 9, 11], [0, 0, 0]), ([1, 2, 3, 4], [0, 0, 2, 1]), ([5, 6, 5], [3, 0, 0])]

    def depth_first(drafter: Drafter, paths: list[list[tuple[int, int]]]) -> list[Tensor]:
        """Predictions after each of the nodes that a call adds; a call adds (token, parent) of one level."""
        drafter.extend(context(either, model, tokens, 0, 6), 4)
        first = drafter.extend(context(either, model, tokens, 6, 9), 4)
        found = [first.logits_BNV[0]]
        for level in paths:
            own = [torch.tensor([[pair[i] for pair in level]]) for i in (0, 1)]
            found.append(drafter.expand(*own).logits_BNV[0])
        return found

    depth = min(len(levels), either.run.algorithm.slots - 1)
    together = depth_first(
        model.drafter(either.verifier.head, 1), [list(zip(*level, strict=True)) for level in levels[:depth]]
    )
    for level in range(depth):
        for node in range(len(levels[level][0])):
            path, at = list[int](), node
            for tokens_N, parents_N in reversed(levels[: level + 1]):
                path.insert(0, tokens_N[at])
                at = parents_N[at]
            alone = depth_first(model.drafter(either.verifier.head, 1), [[(token, 0)] for token in path])
            torch.testing.assert_close(together[level + 1][node], alone[-1][0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_draft_of_one_pass_says_so(either: Case) -> None:
    """What a drafted token adds to the logits after it depends on the text as well only where each level is a pass."""
    model, settings = either.shaken(), either.run.algorithm
    if settings.slots == 1 and not settings.recurrent:
        return

    def added(tokens: list[int]) -> Tensor:
        after = list[Tensor]()
        for token in (7, 9):
            drafter = model.drafter(either.verifier.head, 1)
            drafter.extend(context(either, model, tokens, 0, 9), 2)
            after.append(drafter.expand(torch.tensor([[token]]), torch.tensor([[0]])).logits_BNV)
        return (after[0] - after[1])[after[0].isfinite()]

    first, second = (added(either.texts[i].tokens) for i in (1, 3))
    assert torch.allclose(first, second, atol=1e-3) == model.one_pass


def test_a_chain_written_as_a_tree_counts_alike(overfit: Overfit) -> None:
    """A tree with one branch takes the tree's mask and cache: the same text, and the same counts one by one."""
    case, model = overfit.case, overfit.model
    decoder = case.decoder(model, TOKENS)
    assert decoder.speculation is not None
    as_tree = replace(decoder.speculation, method=AsTree(decoder.speculation.method))
    chain, tree = decoder(prompts(case)), replace(decoder, speculation=as_tree)(prompts(case))
    assert tree.tokens == chain.tokens and tree.rounds == chain.rounds
    assert (tree.drafted, tree.accepted_K) == (chain.drafted, chain.accepted_K)


class AsTree(ProposalMethod):
    """Another method's chains, with their parents written out."""

    def __init__(self, method: ProposalMethod) -> None:
        self.method = method

    def draft(self, drafter: Drafter, context: Context) -> Draft:
        """A tree with one branch."""
        chain = self.method.draft(drafter, context)
        return replace(chain, parent_BM=chain.parents())

    def judge(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """As the chain."""
        return self.method.judge(draft, logits_BPV)


@pytest.mark.parametrize("name", PROPOSALS)
def test_every_proposal_gives_the_verifiers_text(overfit: Overfit, name: str) -> None:
    """Greedy, with each method as its YAML has it, cut to what the draft can do; some is accepted, in drafts of every size."""
    case = overfit.case
    proposal = fitting(case, name)
    if proposal.is_tree and not case.run.algorithm.drafts_trees:
        return
    run = case.run.model_copy(update={"proposal": proposal})
    decoded = replace(case, run=run).decoder(overfit.model, TOKENS)(prompts(case))
    assert decoded.tokens == plain(case.verifier, prompts(case), TOKENS, batch_size=1)
    assert decoded.accepted > 0 and decoded.drafted <= decoded.drafts * proposal.nodes


def fitting(case: Case, name: str) -> TokenProposalConfig:
    """A method with no more levels than the draft can draft."""
    proposal = compose([f"proposal={name}"]).proposal
    levels = proposal.levels if case.run.algorithm.recurrent else min(proposal.levels, case.run.algorithm.slots)
    return type(proposal).model_validate(proposal.model_dump() | {proposal.levels_key: levels})


@pytest.mark.parametrize("name", [n for n in PROPOSALS if compose([f"proposal={n}"]).proposal.is_tree])
def test_a_tree_with_one_branch_counts_as_the_chain(overfit: Overfit, name: str) -> None:
    """With one child everywhere, a tree's text and counts are the greedy chain's, one by one."""
    case = overfit.case
    if not case.run.algorithm.drafts_trees:
        return
    proposal = fitting(case, name)
    levels = proposal.levels
    sizes = {k: 1 for k, v in proposal.model_dump().items() if type(v) is int and k != proposal.levels_key}
    narrow = type(proposal).model_validate(proposal.model_dump() | sizes | {proposal.levels_key: levels})
    if narrow.nodes < levels:  # a method that is told its number of tokens beside
        narrow = type(proposal).model_validate(narrow.model_dump() | {"speculative_tokens": levels})
    if narrow.nodes > levels:  # a method that always has several branches
        return
    greedy = GreedyTokenProposalConfig(speculative_tokens=levels)
    runs = [case.run.model_copy(update={"proposal": p}) for p in (narrow, greedy)]
    tree, chain = (replace(case, run=run).decoder(overfit.model, TOKENS)(prompts(case)) for run in runs)
    assert tree.tokens == chain.tokens and tree.rounds == chain.rounds
    assert (tree.drafted, tree.accepted_K) == (chain.drafted, chain.accepted_K)
