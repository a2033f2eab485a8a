"""A verifier's config.json that cannot be used is one message with its name, and the value."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from speculators.composition.compose import compose
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"intermediate_size": [768]}, "intermediate_size=[768]"),
        ({"head_dim": "wide"}, "head_dim='wide'"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"rope_parameters": 3}, "must be a mapping, not 3"),
        (None, "config.json: cannot be read as JSON"),
    ],
)
def test_a_config_that_cannot_be_used(changes: dict[str, Any] | None, part: str, tmp_path: Path) -> None:
    config = json.loads((Path(str(files("speculators.assets"))) / "tiny" / "config.json").read_text())
    text = "{" if changes is None else json.dumps(config | changes)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="^verifier.name_or_path: ") as caught:
        VerifierFacts.read(str(tmp_path))
    assert part in str(caught.value)
    with pytest.raises(WrongInput) as refused:
        compose(["verifier=hf", f"verifier.name_or_path={tmp_path}"])
    assert f"set by the command-line override verifier.name_or_path={tmp_path}" in refused.value.messages[0]


def rope(**changes: Any) -> dict[str, Any]:
    """Rope parameters that a draft gets from a verifier's config.json with these keys."""
    config = json.loads((Path(str(files("speculators.assets"))) / "tiny" / "config.json").read_text())
    return VerifierFacts.from_dict("tiny", config | {"rope_parameters": None} | changes).rope_parameters


def test_rope_by_kind_of_layer_is_that_of_full_attention() -> None:
    """Gemma 3 as transformers 5 writes it, and as its own config.json has it."""
    full = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    sliding = {"rope_type": "default", "rope_theta": 1e4}
    assert rope(rope_parameters={"sliding_attention": sliding, "full_attention": full}) == full
    assert rope(rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling={"rope_type": "linear", "factor": 8.0}) == full


def test_a_partial_rotary_factor_is_kept_from_both_spellings() -> None:
    """GLM-4's own config.json has it at top level."""
    partial = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    assert rope(rope_parameters=partial) == rope(rope_theta=1e4, partial_rotary_factor=0.5) == partial


def test_positions_of_images_are_dropped() -> None:
    """A draft sees text, whose three positions are one: Qwen2.5-VL, and Qwen3.5 with a part of the head rotated."""
    assert rope(rope_theta=1e6, rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]}) == {
        "rope_type": "default",
        "rope_theta": 1e6,
    }
    both = {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25}
    assert rope(rope_parameters={**both, "mrope_section": [11, 11, 10], "mrope_interleaved": True}) == both


def test_a_scaled_rope_knows_how_far_it_was_trained() -> None:
    """As transformers has it where the config does not say."""
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    assert rope(rope_parameters=yarn) == {**yarn, "original_max_position_embeddings": 2048}
    assert rope(rope_parameters=yarn, original_max_position_embeddings=512)["original_max_position_embeddings"] == 512


@pytest.mark.parametrize(
    ("changes", "biased"),
    [({}, False), ({"model_type": "phi"}, True), ({"lm_head_bias": True}, True), ({"lm_head_bias": False}, False)],
)
def test_a_bias_of_the_head(changes: dict[str, Any], biased: bool) -> None:
    """Phi's config.json does not say it, Phi-3.5-MoE's does."""
    config = json.loads((Path(str(files("speculators.assets"))) / "tiny" / "config.json").read_text())
    assert VerifierFacts.from_dict("tiny", config | changes).head_bias == biased
