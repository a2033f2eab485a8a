"""Several proposal methods in one artefact, and options of the engine for the method that it reads."""

import json
import shlex

import pytest

from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.export.engines import engine_version
from speculators.export.preflight import plan
from speculators.format import strict
from speculators.format.published import speculator_dict
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts

OTHERS = "other_proposals=[{proposal_type: sampling}, {proposal_type: static_tree, depth: 3}]"


def test_the_first_is_the_default_and_what_engines_read() -> None:
    """The rest follow, with the format's defaults; a tree among them keeps no engine away."""
    run = compose([OTHERS, "proposal.speculative_tokens=4", "export.target=vllm"])
    facts = VerifierFacts.read(run.verifier.name_or_path)
    published = speculator_dict(run, facts)
    assert strict.problems(published, facts) == []
    usage = SpeculatorModelConfig.from_dict(published).speculators_config
    assert [method.proposal_type for method in usage.proposal_methods] == ["greedy", "sampling", "static_tree"]
    assert usage.default_proposal_method == "greedy" and usage.proposal_methods[0].nodes == 4
    assert usage.proposal_methods[1:] == run.other_proposals and run.other_proposals[1].levels == 3
    assert plan(run, published, facts).engine is not None
    first = compose(["proposal=sampling", "other_proposals=[{proposal_type: greedy}]"])
    assert speculator_dict(first, facts)["speculators_config"]["default_proposal_method"] == "sampling"


def test_the_command_has_the_options_of_the_method_and_of_the_export() -> None:
    """One JSON object for --speculative-config."""
    sizes = "export.num_speculative_tokens_per_batch_size=[[1,8,5],[9,64,2]]"
    run = compose(["proposal=sampling", "proposal.rejection_sample_method=block", "evaluation.temperature=1.0", sizes])
    engine = engine_version("vllm", "0.32.0")
    proposal = run.proposal.model_dump()
    command = engine.serve_command(
        {"speculators_model_type": "eagle3"},
        "/draft",
        "/verifier",
        proposal,
        serving_options=run.export.serving_options(),
    )
    words = shlex.split(command)
    assert words[:4] == ["vllm", "serve", "/draft", "--speculative-config"]
    assert json.loads(words[4]) == {
        "draft_sample_method": "probabilistic",
        "rejection_sample_method": "block",
        "num_speculative_tokens_per_batch_size": [[1, 8, 5], [9, 64, 2]],
    }


def test_adaptive_verification_is_asked_for_where_a_draft_says_how_confident_it_is() -> None:
    """DSpark drafts do; the option stands in the command of their model card."""
    run = compose(["algorithm=dspark", "proposal=greedy", "export.enable_adaptive_verification=true"])
    proposal, options = run.proposal.model_dump(), run.export.serving_options()
    engine = engine_version("vllm", "0.32.0")
    words = shlex.split(
        engine.serve_command(
            {"speculators_model_type": "dspark"}, "/draft", "/verifier", proposal, serving_options=options
        )
    )
    assert json.loads(words[4]) == {"enable_adaptive_verification": True}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["other_proposals=[{proposal_type: greedy}]"],
            "other_proposals.0.proposal_type='greedy': is published already",
        ),
        (["other_proposals=[{proposal_type: static_tree, dept: 3}]"], "other_proposals"),
        (["other_proposals=[{proposal_type: sampling, speculative_tokens: '3'}]"], "other_proposals"),
        (
            ["algorithm=medusa", "other_proposals=[{proposal_type: dynamic_tree}]"],
            "other_proposals.0.depth=6: a medusa",
        ),
        (["export.enable_adaptive_verification=true"], "eagle3 drafts do not"),
        (["export.num_speculative_tokens_per_batch_size=[[1,8,6]]"], "6 tokens are more than the proposal's 5"),
        (["export.num_speculative_tokens_per_batch_size=[[1,8,3],[10,12,2]]"], "the next one begins right after it"),
        (
            ["export.target=none", "export.num_speculative_tokens_per_batch_size=[[1,8,3]]"],
            "no engine serves this draft",
        ),
    ],
)
def test_what_cannot_be_is_refused(overrides: list[str], said: str) -> None:
    """Before anything starts, with the key."""
    with pytest.raises(WrongInput) as error:
        compose(overrides)
    assert said in str(error.value)


@pytest.mark.parametrize("tree", ["static_tree", "dynamic_tree"])
def test_a_draft_that_cannot_draft_trees_says_so_before_training(tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every algorithm here can; one that cannot is refused when the run is composed, also among further methods."""
    monkeypatch.setattr(AlgorithmSettings.named("mlp"), "drafts_trees", False)
    remedy = "a mlp draft cannot draft trees; choose a chain, such as proposal=greedy"
    for overrides in ([f"proposal={tree}"], [f"other_proposals=[{{proposal_type: {tree}, depth: 2}}]"]):
        with pytest.raises(WrongInput, match=remedy):
            compose(["algorithm=mlp", *overrides])


def test_trees_are_refused_for_vllm_before_training() -> None:
    """As the method that it would read; with export.target=auto the draft is written for no engine, and that is said."""
    with pytest.raises(WrongInput, match="vllm drafts chains only"):
        compose(["proposal=static_tree", "export.target=vllm"])
    run = compose(["proposal=static_tree"])
    facts = VerifierFacts.read(run.verifier.name_or_path)
    found = plan(run, speculator_dict(run, facts), facts)
    assert found.engine is None and "vllm drafts chains only" in found.summary
