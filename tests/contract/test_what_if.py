"""What a proposal would count, found from one decoded text, is what decoding with it counts."""

from dataclasses import replace

import pytest

from speculators.composition.compose import compose
from speculators.decoding.generate import Decoder
from speculators.evaluate.evaluate import sampler_of, speculation_of
from speculators.evaluate.what_if import families, what_if
from speculators.proposals import GreedyTokenProposalConfig, TokenProposalConfig
from speculators.settings.evaluation import EvaluationSettings

from .conftest import Overfit
from .test_decoding import PROPOSALS, TOKENS, fitting, prompts


def candidates(overfit: Overfit) -> list[TokenProposalConfig]:
    """Chains of several lengths, and every method as its YAML has it and with fewer tokens, as far as the draft can."""
    case = overfit.case
    slots = case.run.algorithm.slots
    most = slots + 3 if case.run.algorithm.recurrent else slots
    own = [fitting(case, name) for name in PROPOSALS]
    own += [proposal.with_tokens(2) for proposal in own if proposal.is_tree and not proposal.nested]
    chains = [GreedyTokenProposalConfig(speculative_tokens=k) for k in {1, min(2, most), most}]
    trees = case.run.algorithm.drafts_trees
    return [*chains, *(proposal for proposal in own if trees or not proposal.is_tree)]


def test_counters_are_those_of_decoding_at_each(overfit: Overfit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts, rounds and drafted tokens, one by one; some texts are cut, some end early, and drafts go beyond both."""
    case, model = overfit.case, overfit.model
    chosen = [*prompts(case), case.texts[3].tokens[:20], [5, *case.texts[2].tokens[:4]], [99]]
    ending = case.texts[0].tokens[-12], case.texts[3].tokens[-14]
    monkeypatch.setattr(case.verifier, "eos_ids", frozenset(ending))
    evaluation = case.run.evaluation.model_copy(update={"max_new_tokens": TOKENS, "batch_size": 4})
    proposals = candidates(overfit)
    for found, proposal in zip(what_if(model, case.verifier, chosen, proposals, evaluation, 0), proposals, strict=True):
        sampler = sampler_of(evaluation, case.verifier, 0)
        decoded = Decoder(case.verifier, sampler, TOKENS, speculation_of(model, case.verifier, proposal, sampler))(
            chosen
        )
        assert found.tokens == decoded.tokens, proposal
        assert found.rounds == decoded.rounds and found.drafted == decoded.drafted, proposal
        assert found.accepted_K == decoded.accepted_K
        lengths = {len(text) for text in found.tokens}
        assert TOKENS in lengths and len(lengths) > 1


def test_the_verifier_reads_a_text_once(overfit: Overfit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six chains take hardly more passes of the verifier than the longest one alone."""
    case, model, passes = overfit.case, overfit.model, []
    states = case.verifier.states

    def counted(*args: object) -> object:
        passes.append(None)
        return states(*args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(case.verifier, "states", counted)
    evaluation = case.run.evaluation.model_copy(update={"max_new_tokens": TOKENS})
    chains: list[TokenProposalConfig] = [
        GreedyTokenProposalConfig(speculative_tokens=k) for k in range(1, case.run.algorithm.slots + 1)
    ]
    what_if(model, case.verifier, prompts(case), chains, evaluation, 0)
    several = len(passes)
    passes.clear()
    what_if(model, case.verifier, prompts(case), chains[-1:], evaluation, 0)
    assert several == len(passes)


def test_a_lossy_or_sampled_proposal_is_decoded(overfit: Overfit) -> None:
    """Above temperature 0 there is no one text; each proposal is decoded with its own random numbers."""
    case, model = overfit.case, overfit.model
    evaluation: EvaluationSettings = case.run.evaluation.model_copy(
        update={"max_new_tokens": TOKENS, "temperature": 1.0}
    )
    sampling = compose(["proposal=sampling", "proposal.speculative_tokens=2"]).proposal
    proposals = [GreedyTokenProposalConfig(speculative_tokens=1), sampling]
    found = what_if(model, case.verifier, prompts(case), proposals, evaluation, 7)
    for proposal, own in zip(proposals, found, strict=True):
        sampler = sampler_of(evaluation, case.verifier, 7)
        speculation = speculation_of(model, case.verifier, proposal, sampler)
        decoder = replace(case.decoder(model, TOKENS), sampler=sampler, speculation=speculation)
        assert own.rounds == decoder(prompts(case)).rounds


def test_families_share_a_draft_only_where_it_begins_alike() -> None:
    """Chains of one method do, regular trees of one shape do, dynamic trees do not, and a block draft's chains do not."""
    chains = [GreedyTokenProposalConfig(speculative_tokens=k) for k in (3, 1)]
    trees = [compose(["proposal=static_tree", f"proposal.depth={d}"]).proposal for d in (2, 4)]
    wide = compose(["proposal=static_tree", "proposal.branching_factor=3"]).proposal
    dynamic = [compose(["proposal=dynamic_tree"]).proposal.with_tokens(k) for k in (4, 8)]
    proposals = [*chains, *trees, wide, *dynamic]
    assert families(proposals, range(7), True) == [[1, 0], [2, 3], [4], [5], [6]]
    assert families(proposals, [0, 1, 6], False) == [[0], [1], [6]]
