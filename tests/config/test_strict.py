"""What strict reading reports: each kind of mistake by its key, and nothing on what is right."""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, PretrainedConfig, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from speculators import SpeculatorModelConfig
from speculators.format.layers import LAYER_KEYS, ROPE_KEYS, TRANSFORMERS_KEYS
from speculators.format.strict import FORMAT_KEYS, problems
from speculators.settings.algorithm import AlgorithmSettings
from speculators.verifier.facts import VerifierFacts

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "upstream.json").read_text())
LAYER = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
GOOD: dict[str, Any] = {
    "speculators_model_type": "eagle3",
    "speculators_version": "0.9.0",
    "architectures": ["Eagle3Speculator"],
    "draft_vocab_size": 256,
    "eagle_aux_hidden_state_layer_ids": [1, 3, 5],
    "target_hidden_size": 64,
    "speculators_config": {
        "algorithm": "eagle3",
        "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
        "default_proposal_method": "greedy",
        "verifier": {"name_or_path": "org/verifier", "architectures": ["LlamaForCausalLM"]},
    },
    "transformer_layer_config": LAYER,
}
FACTS = VerifierFacts.from_dict(
    "org/verifier", LAYER | {"num_hidden_layers": 6, "architectures": ["LlamaForCausalLM"], "vocab_size": 512}
)


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one value set at a dotted path, where a number is a list's index."""
    config = copy.deepcopy(GOOD)
    *folders, last = path.split(".")
    at: Any = config
    for part in folders:
        at = at[int(part)] if part.isdigit() else at[part]
    at[int(last) if last.isdigit() else last] = value
    return config


# Path and value of the mistake, key of the one problem, part of its reason.
MISTAKES: list[tuple[str, Any, str, str]] = [
    ("speculators_model_type", "eagel3", "speculators_model_type", "did you mean eagle3"),
    ("speculators_model_type", None, "speculators_model_type", "must be an algorithm"),
    ("draft_vocab_sizes", 3, "draft_vocab_sizes", "did you mean draft_vocab_size"),
    ("norm_befor_fc", True, "norm_befor_fc", "did you mean norm_before_fc"),
    ("layernorms", True, "layernorms", "is not a key of the format"),
    ("model_type", "llama", "model_type", "remove it"),
    ("draft_vocab_size", 513, "draft_vocab_size", "at most the verifier's vocabulary, 512"),
    ("draft_vocab_size", "all", "draft_vocab_size", "valid integer"),
    ("norm_output", "perhaps", "norm_output", "valid boolean"),
    ("eagle_aux_hidden_state_layer_ids", [3, 1], "eagle_aux_hidden_state_layer_ids", "write [1, 3]"),
    ("eagle_aux_hidden_state_layer_ids", [1, 1], "eagle_aux_hidden_state_layer_ids", "write [1]"),
    ("eagle_aux_hidden_state_layer_ids", [-1, 2], "eagle_aux_hidden_state_layer_ids", "no id below 0"),
    ("eagle_aux_hidden_state_layer_ids", [], "eagle_aux_hidden_state_layer_ids", "at least one"),
    ("eagle_aux_hidden_state_layer_ids", [1, 7], "eagle_aux_hidden_state_layer_ids", "last layer, 6"),
    ("eagle_aux_hidden_state_layer_ids", 3, "eagle_aux_hidden_state_layer_ids", "valid list"),
    ("target_hidden_size", 32, "target_hidden_size", "width of the verifier's states, 64"),
    ("transformer_layer_config", 3, "transformer_layer_config", "must be a mapping"),
    (
        "transformer_layer_config.num_key_value_head",
        2,
        "transformer_layer_config.num_key_value_head",
        "num_key_value_heads",
    ),
    (
        "transformer_layer_config.num_attention_heads",
        6,
        "transformer_layer_config.num_attention_heads",
        "hidden_size, 64",
    ),
    ("transformer_layer_config.num_key_value_heads", 3, "transformer_layer_config.num_key_value_heads", "divide"),
    (
        "transformer_layer_config.layer_types",
        ["full_attention"] * 2,
        "transformer_layer_config.layer_types",
        "1 in all",
    ),
    ("transformer_layer_config.vocab_size", 500, "transformer_layer_config.vocab_size", "the verifier's, 512"),
    ("transformer_layer_config.hidden_size", "64", "transformer_layer_config.hidden_size", "valid integer"),
    ("transformer_layer_config.head_dim", 15, "transformer_layer_config.head_dim", "must be even"),
    ("transformer_layer_config.rms_norm_eps", "small", "transformer_layer_config.rms_norm_eps", "valid number"),
    (
        "transformer_layer_config.layer_types",
        ["half_attention"],
        "transformer_layer_config.layer_types[0]",
        "'full_attention' or 'sliding_attention'",
    ),
    (
        "transformer_layer_config.rope_parameters",
        {"rope_type": "swirl"},
        "transformer_layer_config.rope_parameters.rope_type",
        "choose one of default, linear",
    ),
    (
        "transformer_layer_config.rope_parameters",
        {"rope_type": "linear"},
        "transformer_layer_config.rope_parameters.factor",
        "must be given",
    ),
    (
        "transformer_layer_config.rope_parameters",
        {"rope_theta": "x"},
        "transformer_layer_config.rope_parameters.rope_theta",
        "must be a number",
    ),
    (
        "transformer_layer_config.rope_parameters",
        {"rope_theta": 1e4, "partial_rotary_factor": 1.5},
        "transformer_layer_config.rope_parameters.partial_rotary_factor",
        "must be above 0 and at most 1",
    ),
    (
        "transformer_layer_config.rope_parameters",
        {"full_attention": {"rope_type": "default", "rope_theta": 1e6}},
        "transformer_layer_config.rope_parameters.full_attention",
        "all layers of a draft have the same rotary",
    ),
    (
        "transformer_layer_config.layer_types",
        ["sliding_attention"],
        "transformer_layer_config.layer_types",
        "needs sliding_window",
    ),
    ("norm_output", "yes", "norm_output", "valid boolean"),
    ("transformer_layer_config.hidden_size", 10**12, "transformer_layer_config.hidden_size", "less than or equal"),
    ("transformer_layer_config.num_labels", 10**9, "transformer_layer_config.num_labels", "less than or equal"),
    ("num_labels", 10**9, "num_labels", "an integer up to 1000"),
    (
        "speculators_config.proposal_methods.0.speculative_tokens",
        10**12,
        "speculators_config.proposal_methods[0].speculative_tokens",
        "at most 1000",
    ),
    ("draft_vocab_size", "256", "draft_vocab_size", "valid integer"),
    ("draft_vocab_size", 0, "draft_vocab_size", "at least 1"),
    ("dtype", "float99", "dtype", "one of float32"),
    ("architectures", "Eagle3Speculator", "architectures", "a list of names"),
    ("speculators_config", None, "speculators_config", "must be a mapping"),
    ("speculators_config.algorithm", "eagle", "speculators_config.algorithm", "'eagle3'"),
    ("speculators_config.verifer", {}, "speculators_config.verifer", "did you mean verifier"),
    (
        "speculators_config.default_proposal_method",
        "tree",
        "speculators_config.default_proposal_method",
        "the first of proposal_methods, 'greedy'",
    ),
    ("speculators_config.proposal_methods", [], "speculators_config.proposal_methods", "must hold a proposal"),
    (
        "speculators_config.proposal_methods.0.proposal_type",
        "tree",
        "speculators_config.proposal_methods[0]",
        "must have a 'proposal_type', one of dynamic_tree, greedy",
    ),
    (
        "speculators_config.proposal_methods.0.speculative_tokens",
        0,
        "speculators_config.proposal_methods[0].speculative_tokens",
        "greater than or equal to 1",
    ),
    (
        "speculators_config.proposal_methods.0.num_speculative_tokens",
        3,
        "speculators_config.proposal_methods[0].num_speculative_tokens",
        "did you mean speculative_tokens",
    ),
    ("speculators_config.verifier.name_or_path", None, "speculators_config.verifier.name_or_path", "engines load it"),
    (
        "speculators_config.verifier.name_or_pth",
        "x",
        "speculators_config.verifier.name_or_pth",
        "did you mean name_or_path",
    ),
    (
        "speculators_config.verifier.architectures",
        ["Qwen3ForCausalLM"],
        "speculators_config.verifier.architectures",
        "['LlamaForCausalLM']",
    ),
    (
        "speculators_config.verifier",
        {"name_or_path": "x"},
        "speculators_config.verifier.architectures",
        "must be given",
    ),
]


def test_a_good_config_has_no_problem() -> None:
    assert problems(GOOD, FACTS) == []


@pytest.mark.parametrize(("path", "value", "key", "reason"), MISTAKES, ids=[f"{p}={v}" for p, v, _, _ in MISTAKES])
def test_a_mistake_is_named(path: str, value: Any, key: str, reason: str) -> None:
    found = problems(changed(path, value), FACTS)
    assert key in {p.key for p in found}
    assert any(reason in p.reason for p in found if p.key == key), found
    # Nothing else is blamed, what lies inside a wrong value aside.
    assert {p.key for p in found if not p.key.startswith(key)} <= {"transformer_layer_config.vocab_size"} | (
        {"speculators_config.algorithm"} if path == "speculators_model_type" else set()
    )


def test_two_norms_at_once() -> None:
    found = problems(changed("fc_norm", True) | {"norm_before_fc": True}, FACTS)
    assert [p.reason for p in found] == [
        "norm_before_fc and fc_norm are mutually exclusive — enable one or the other, not both."
    ]


def test_the_default_proposal_is_the_first() -> None:
    config = changed("speculators_config.proposal_methods", [{"proposal_type": "tree"}, {"proposal_type": "greedy"}])
    assert "engines read only the first" in " ".join(p.reason for p in problems(config))


def test_all_problems_at_once() -> None:
    config = changed("draft_vocab_size", 1000) | {"note": 1, "norm_output": "perhaps"}
    assert {p.key for p in problems(config, FACTS)} == {"draft_vocab_size", "note", "norm_output"}


def test_a_problem_reads_as_a_sentence() -> None:
    (problem,) = problems(changed("draft_vocab_sizes", 3))
    assert (
        str(problem)
        == "invalid: draft_vocab_sizes=3: is not a key of the format and has no effect; did you mean draft_vocab_size?"
    )


@pytest.mark.parametrize("value", [None, 3, -1, "x", [], {}, [None], {"a": None}, True])
def test_whatever_stands_there_nothing_breaks(value: Any) -> None:
    paths = [*GOOD, "speculators_config.proposal_methods.0", *(f"transformer_layer_config.{k}" for k in LAYER)]
    paths += [f"speculators_config.{k}" for k in GOOD["speculators_config"]]
    for path in paths:
        for problem in problems(changed(path, value), FACTS):
            assert str(problem)


@pytest.mark.parametrize("name", GOLDEN["configs"])
def test_what_upstream_writes_is_all_known(name: str) -> None:
    saved = GOLDEN["configs"][name]["saved"]
    unknown = [p.key for p in problems(saved) if "is not a key" in p.reason]
    assert unknown == (["note"] if name == "foreign keys" else [])


def test_a_key_that_upstreams_models_add_to_their_config_is_known() -> None:
    """Its drafts' save_pretrained writes it beside the config's own keys."""
    assert problems(GOOD) == problems(changed("tie_word_embeddings", False)) == []


@pytest.mark.parametrize("layer", [LlamaConfig, Qwen3Config])
def test_the_layers_keys_are_those_of_transformers(layer: type[PretrainedConfig]) -> None:
    assert {f.name for f in dataclasses.fields(layer)} <= LAYER_KEYS
    assert layer().to_dict().keys() <= LAYER_KEYS


@pytest.mark.parametrize("name", AlgorithmSettings.names())
def test_the_keys_are_those_of_the_published_class(name: str) -> None:
    """The keys that can be named without torch are the fields of the class that needs it."""
    settings = AlgorithmSettings.named(name)
    registry = SpeculatorModelConfig.registry
    assert registry is not None
    known = settings.published_fields.model_fields.keys() | set(settings.derived_keys) | FORMAT_KEYS | TRANSFORMERS_KEYS
    assert registry[name].model_fields.keys() - known == set()
    assert (
        set(settings.derived_keys) | settings.published_fields.model_fields.keys() <= registry[name].model_fields.keys()
    )


def test_strict_reading_is_free_of_torch() -> None:
    code = "import sys, speculators.format.strict as s; s.problems({'speculators_model_type': 'eagle3'})"
    code += "; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kinds_of_rotary_embedding_are_those_of_transformers() -> None:
    assert set(ROPE_KEYS) == {"default", *ROPE_INIT_FUNCTIONS}
