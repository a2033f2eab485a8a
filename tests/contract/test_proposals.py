"""What every proposal method does, found by itself."""

import pytest
import torch

from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.decoding.acceptance import Acceptance
from speculators.format.published import speculator_dict
from speculators.proposals import TokenProposalConfig
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts

PROPOSALS = sorted(TokenProposalConfig.registry or {})
GENERATOR = torch.Generator()


@pytest.fixture(params=PROPOSALS)
def proposal(request: pytest.FixtureRequest) -> TokenProposalConfig:
    """A method as its YAML has it, with as many tokens as every algorithm can draft."""
    least = min(compose([f"algorithm={name}"]).algorithm.slots for name in AlgorithmSettings.names())
    return compose([f"proposal={request.param}", f"proposal.speculative_tokens={least}"]).proposal


@pytest.mark.parametrize("name", PROPOSALS)
def test_it_is_published_as_chosen(name: str) -> None:
    """Its settings stand in the published config, and reading that gives the method again."""
    run = compose([f"proposal={name}"])
    config = SpeculatorModelConfig.from_dict(speculator_dict(run, VerifierFacts.read(run.verifier.name_or_path)))
    assert config.speculators_config.default_proposal_method == name
    assert config.speculators_config.proposal_methods == [run.proposal]
    again = SpeculatorModelConfig.from_dict(config.to_diff_dict())
    assert again.speculators_config.proposal_methods == [run.proposal]


@pytest.mark.parametrize("name", PROPOSALS)
def test_an_unknown_key_is_refused_with_the_nearest(name: str) -> None:
    """A slip in any key of the method names the right one."""
    for key in set((TokenProposalConfig.registry or {})[name].model_fields) - {"proposal_type"}:
        with pytest.raises(WrongInput, match=rf"proposal\.{key}x .*did you mean proposal\.{key}\?"):
            compose([f"proposal={name}", f"+proposal.{key}x=1"])


def test_its_rule_judges_each_sequence_by_itself(proposal: TokenProposalConfig) -> None:
    """Right, partly right and wrong drafts: 0 to K are accepted, alone as side by side; a lossless rule stops at the
    first wrong token and says the verifier's own.
    """
    count = proposal.model_dump()["speculative_tokens"]
    rule = Acceptance.of(proposal, 0.0, GENERATOR)
    logits_BPV = torch.randn(count + 1, count + 1, 50, generator=GENERATOR)
    own_BP = logits_BPV.argmax(-1)
    draft_BK = own_BP[:, :-1].clone()
    for wrong in range(count):  # sequence i is wrong at place i, the last one nowhere
        draft_BK[wrong, wrong] = logits_BPV[wrong, wrong].argmin()
    accepted_B, token_B = rule(logits_BPV, draft_BK)
    assert accepted_B.dtype == token_B.dtype == torch.int64
    assert (accepted_B <= torch.arange(count + 1)).all() and (accepted_B >= 0).all() and accepted_B.any()
    alone = [rule(logits_BPV[i : i + 1], draft_BK[i : i + 1]) for i in range(count + 1)]
    assert accepted_B.tolist() == [a.item() for a, _ in alone] and token_B.tolist() == [t.item() for _, t in alone]
    if rule.lossless:
        assert token_B.tolist() == [own_BP[i, a].item() for i, a in enumerate(accepted_B.tolist())]
