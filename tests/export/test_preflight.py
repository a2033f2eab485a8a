"""Preflight: what the engine would refuse or ignore, key by key."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from speculators.composition.compose import compose
from speculators.export.engines import engine_version
from speculators.export.preflight import CannotServe, plan, preflight
from speculators.format.finding import Finding
from speculators.format.published import speculator_dict
from speculators.settings.algorithm import AlgorithmSettings
from speculators.settings.run_config import RunConfig
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts

from .conftest import EAGLE, EAGLE3

ENGINE = engine_version("vllm", "0.32.0")
LAYER = "transformer_layer_config"

Make = Callable[..., RunConfig]
Published = Callable[[RunConfig], dict[str, Any]]


def change(config: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path; `...` takes the key out."""
    *parents, last = path.split(".")
    place: Any = config
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    if value is ...:
        del place[last]
    else:
        place[last] = value


def levels(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.key) for finding in found]


@pytest.mark.parametrize("algorithm", [EAGLE, EAGLE3, EAGLE3 | {"draft_arch": "qwen3", "draft_vocab_size": None}])
def test_what_we_train_is_served(
    algorithm: dict[str, Any], make_run: Make, published: Published, facts: VerifierFacts
) -> None:
    assert preflight(ENGINE, published(make_run(algorithm)), facts) == []


@pytest.mark.parametrize(("algorithm", "found"), [(EAGLE, ["wrong"]), (EAGLE3, [])])
def test_a_head_that_the_draft_borrows_has_no_bias(
    algorithm: dict[str, Any], found: list[str], make_run: Make, published: Published, facts: VerifierFacts
) -> None:
    """EAGLE's logits are made by the verifier's head, EAGLE-3 has one of its own."""
    biased = facts.model_copy(update={"head_bias": True})
    assert [f.level for f in preflight(ENGINE, published(make_run(algorithm)), biased)] == found


@pytest.mark.parametrize(
    ("path", "value", "level", "key"),
    [
        ("model_type", "llama", "refused", "model_type"),
        (f"{LAYER}.model_type", "gemma", "refused", f"{LAYER}.model_type"),
        (f"{LAYER}.hidden_act", "gelu", "refused", f"{LAYER}.hidden_act"),
        (f"{LAYER}.rms_norm_eps", ..., "refused", f"{LAYER}.rms_norm_eps"),
        (f"{LAYER}.rope_parameters.mrope_section", [8, 4, 4], "note", f"{LAYER}.rope_parameters.mrope_section"),
        (f"{LAYER}.rope_parameters.rope_type", "swirl", "refused", f"{LAYER}.rope_parameters.rope_type"),
        (f"{LAYER}.layer_types", ["full_attention"] * 2, "refused", f"{LAYER}.layer_types"),
        (f"{LAYER}.vocab_size", 100, "wrong", f"{LAYER}.vocab_size"),
        (f"{LAYER}.head_dim", 16, "note", f"{LAYER}.head_dim"),
        ("target_hidden_size", 32, "refused", "target_hidden_size"),
        ("draft_vocab_size", 97, "invalid", "draft_vocab_size"),
        ("norm_before_residual", ..., "wrong", "norm_before_residual"),
        ("eagle_aux_hidden_state_layer_ids", None, "refused", "eagle_aux_hidden_state_layer_ids"),
        ("eagle_aux_hidden_state_layer_ids", [4, 2, 1], "wrong", "eagle_aux_hidden_state_layer_ids"),
        ("eagle_aux_hidden_state_layer_ids", [1, 1, 4], "refused", "eagle_aux_hidden_state_layer_ids"),
        ("eagle_aux_hidden_state_layer_ids", [1, 2, 7], "refused", "eagle_aux_hidden_state_layer_ids"),
        ("eagle_aux_hidden_state_layer_ids", [1, 2], "refused", f"{LAYER}.num_aux_hidden_states"),
        ("speculators_config.proposal_methods", [], "refused", "speculators_config.proposal_methods"),
        ("speculators_config.verifier.name_or_path", None, "refused", "speculators_config.verifier.name_or_path"),
        ("speculators_config.default_proposal_method", "tree", "invalid", "speculators_config.default_proposal_method"),
        (
            "speculators_config.proposal_methods.0.verifier_accept_k",
            4,
            "ignored",
            "speculators_config.proposal_methods[0].verifier_accept_k",
        ),
        ("block_size", 8, "invalid", "block_size"),
        ("auto_map", {"": "x.Y"}, "ignored", "auto_map"),
    ],
)
def test_one_wrong_value(
    path: str, value: Any, level: str, key: str, make_run: Make, published: Published, facts: VerifierFacts
) -> None:
    config = published(make_run(EAGLE3))
    change(config, path, value)
    assert levels(preflight(ENGINE, config, facts)) == [(level, key)]


@pytest.mark.parametrize("key", ["layernorms", "fusion_bias"])
def test_eagle_with_what_its_class_lacks(key: str, make_run: Make, published: Published, facts: VerifierFacts) -> None:
    config = published(make_run(EAGLE)) | {key: True}
    (finding,) = preflight(ENGINE, config, facts)
    assert (finding.level, finding.key, finding.value) == ("wrong", key, True)
    assert f"{key}=false" in finding.reason


def test_a_verifier_without_layer_states(make_run: Make, published: Published, facts: VerifierFacts) -> None:
    gemma = facts.model_copy(update={"architectures": ["Gemma2ForCausalLM"]})
    eagle3, eagle = published(make_run(EAGLE3)), published(make_run(EAGLE))
    for config in (eagle3, eagle):
        config["speculators_config"]["verifier"]["architectures"] = ["Gemma2ForCausalLM"]
    assert levels(preflight(ENGINE, eagle3, gemma)) == [("refused", "speculators_config.verifier.architectures")]
    assert preflight(ENGINE, eagle, gemma) == []


def test_auto_takes_the_first_engine(make_run: Make, published: Published, facts: VerifierFacts) -> None:
    run = make_run(EAGLE3, target="auto")
    export = plan(run, published(run), facts)
    assert str(export.engine) == "vllm 0.32.0"
    assert export.summary == "export.target=auto: vllm 0.32.0 will serve this draft"
    export = plan(run, published(run) | {"auto_map": "x.Y"}, facts)
    assert export.summary.endswith("draft\n  ignored: auto_map='x.Y': vllm 0.32.0 does not read it")


def test_only_a_named_target_stops(make_run: Make, published: Published, facts: VerifierFacts) -> None:
    run = make_run(EAGLE3)
    config = published(run) | {"draft_vocab_size": 97}
    with pytest.raises(CannotServe, match=r"export.target=vllm: vllm 0.32.0 could not.*\n.*draft_vocab_size=97"):
        plan(run, config, facts)
    export = plan(make_run(EAGLE3, target="auto"), config, facts)
    assert export.engine is None
    assert export.summary.startswith("export.target=auto is none: vllm 0.32.0 could not serve this draft\n")
    assert plan(make_run(EAGLE3, target="none"), config, facts).engine is None


def test_auto_is_none_where_no_engine_serves(
    make_run: Make, published: Published, facts: VerifierFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AlgorithmSettings.named("eagle"), "engines", ())
    run = make_run(EAGLE, target="auto")
    export = plan(run, published(run), facts)
    assert (export.engine, export.summary) == (None, "export.target=auto is none: no engine serves eagle drafts")


def test_an_unknown_version() -> None:
    with pytest.raises(ValueError, match=r"export.engine_version=0.1: .* choose one of vllm 0.32.0"):
        engine_version("vllm", "0.1")


def test_torch_stays_out() -> None:
    code = "import sys, speculators.export.preflight, speculators.format.layout as l; l.Layout.named('eagle3'); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("proposal", "finding"),
    [
        (
            "static_tree",
            "refused: speculators_config.proposal_methods[0].proposal_type='static_tree': vllm drafts chains",
        ),
        (
            "dynamic_tree",
            "wrong: speculators_config.proposal_methods[0].proposal_type='dynamic_tree': vllm drafts chains",
        ),
    ],
)
def test_trees_are_not_for_vllm(proposal: str, finding: str) -> None:
    """Said before training: by name where vllm was asked for, and `auto` exports for no engine."""
    run = compose([f"proposal={proposal}"])
    facts = VerifierFacts.read(run.verifier.name_or_path)
    made = plan(run, speculator_dict(run, facts), facts)
    assert made.engine is None and finding in made.summary
    with pytest.raises(WrongInput, match=r"proposal\.proposal_type.*vllm drafts chains only"):
        compose([f"proposal={proposal}", "export=vllm"])


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        (["proposal=greedy"], None),
        (["proposal=sampling"], {"draft_sample_method": "probabilistic"}),
        (
            ["proposal=sampling", "proposal.rejection_sample_method=block", "evaluation.temperature=1"],
            {"draft_sample_method": "probabilistic", "rejection_sample_method": "block"},
        ),
    ],
)
def test_the_serve_command_samples_as_the_proposal_does(overrides: list[str], options: dict[str, str] | None) -> None:
    """vLLM is told by options of its speculative configuration, beside what the published config says."""
    run = compose(overrides)
    words = shlex.split(
        ENGINE.serve_command({"speculators_model_type": "eagle3"}, "/draft", "/verifier", run.proposal.model_dump())
    )
    assert words[:3] == ["vllm", "serve", "/draft"]
    assert (json.loads(words[4]) if len(words) > 3 else None) == options
