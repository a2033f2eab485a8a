"""SpeculatorModelConfig and its parts: what a golden file cannot show."""

import copy
import json
import pickle
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError
from transformers import LlamaConfig, Qwen3Config

from speculators import SpeculatorModelConfig, SpeculatorsConfig, VerifierConfig, reload_schemas
from speculators.models.eagle import EagleSpeculatorConfig
from speculators.models.eagle3 import Eagle3SpeculatorConfig

SPECULATORS: dict[str, Any] = {
    "algorithm": "eagle",
    "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
    "default_proposal_method": "greedy",
    "verifier": {"name_or_path": "org/verifier", "architectures": ["LlamaForCausalLM"]},
}
EAGLE: dict[str, Any] = {"speculators_model_type": "eagle", "speculators_config": SPECULATORS}


def run_fresh(code: str) -> None:
    """Run code in a Python of its own, where nothing is imported yet."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_costs_nothing() -> None:
    run_fresh(
        "import sys, speculators, speculators.models, speculators.models.eagle3\n"
        "assert not {'torch', 'transformers', 'pydantic'} & sys.modules.keys()"
    )


def test_proposals_and_settings_are_free_of_torch() -> None:
    run_fresh(
        "import sys\nfrom speculators import GreedyTokenProposalConfig, ClassRegistryMixin\n"
        "from speculators.settings.algorithm import AlgorithmSettings\nassert 'eagle' in AlgorithmSettings.names()\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )


@pytest.mark.slow
@pytest.mark.parametrize("first", ["speculators.config", "speculators.models.eagle.config", "speculators.model"])
def test_whatever_is_imported_first_all_types_are_known(first: str) -> None:
    run_fresh(
        f"import {first}\nfrom speculators import SpeculatorModelConfig as C\n"
        "for name in ('eagle', 'eagle3'):\n"
        "    assert C.from_dict({'speculators_model_type': name}).speculators_model_type == name"
    )


def test_public_names() -> None:
    import speculators
    import speculators.models

    for name in {*speculators.__all__} - {"__version__"}:
        assert getattr(speculators, name).__name__ == name
    assert speculators.EagleSpeculatorConfig is EagleSpeculatorConfig
    assert speculators.models.Eagle3SpeculatorConfig is Eagle3SpeculatorConfig
    with pytest.raises(AttributeError, match="'NoSuchClass'"):
        _ = speculators.NoSuchClass


def test_eagle_defaults_and_round_trip(tmp_path: Path) -> None:
    config = SpeculatorModelConfig.from_dict(EAGLE)
    assert type(config) is EagleSpeculatorConfig
    assert config.transformer_layer_architecture == "auto"
    assert (config.layernorms, config.fusion_bias) == (False, False)
    assert type(config.transformer_layer_config) is LlamaConfig
    assert config.speculators_config.proposal_methods[0].model_dump()["speculative_tokens"] == 3
    config.save_pretrained(tmp_path)
    assert SpeculatorModelConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()
    assert EagleSpeculatorConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()


def test_flags_that_cannot_be_trained_load_and_save(tmp_path: Path) -> None:
    SpeculatorModelConfig.from_dict(EAGLE | {"layernorms": True, "fusion_bias": True}).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["layernorms"] is True and saved["fusion_bias"] is True


def test_nothing_but_the_format_is_written(tmp_path: Path) -> None:
    foreign = {
        "auto_map": {"AutoConfig": "code.C"},
        "model_type": "llama",
        "registry": 1,
        "transformers_version": "4.0",
    }
    config = SpeculatorModelConfig.from_dict(EAGLE | foreign)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert not {"auto_map", "model_type", "registry", "model_config", "schema_discriminator"} & saved.keys()
    assert saved["transformers_version"] == version("transformers") == config.transformers_version
    assert [f.name for f in tmp_path.iterdir()] == ["config.json"]


def test_an_engine_needs_no_defaults_of_the_layer(tmp_path: Path) -> None:
    """Every size stands in the file, though it is the layer class's default."""
    SpeculatorModelConfig.from_dict(EAGLE).save_pretrained(tmp_path)
    layer = json.loads((tmp_path / "config.json").read_text())["transformer_layer_config"]
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    assert {"model_type", "vocab_size", "hidden_act", "rms_norm_eps", "rope_parameters", *sizes} <= layer.keys()


def test_the_layers_kind() -> None:
    layer = {"model_type": "qwen3", "hidden_size": 64}
    config = SpeculatorModelConfig.from_dict(EAGLE | {"transformer_layer_config": layer})
    assert type(config.transformer_layer_config) is Qwen3Config
    assert (
        type(Eagle3SpeculatorConfig(transformer_layer_config={"hidden_size": 64}).transformer_layer_config)
        is Qwen3Config
    )


def test_copies_are_equal() -> None:
    config = SpeculatorModelConfig.from_dict(EAGLE)
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)).to_dict() == config.to_dict()


def test_arguments_take_the_place_of_the_dicts(tmp_path: Path) -> None:
    assert SpeculatorModelConfig.from_dict(EAGLE, fusion_bias=True).to_dict()["fusion_bias"] is True
    SpeculatorModelConfig.from_dict(EAGLE).save_pretrained(tmp_path)
    assert SpeculatorModelConfig.from_pretrained(tmp_path, layernorms=True).to_dict()["layernorms"] is True


def test_another_models_folder_is_refused(tmp_path: Path) -> None:
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="Loading a non-speculator model config is not supported yet"):
        SpeculatorModelConfig.from_pretrained(tmp_path)


def test_a_subclass_refuses_another_type() -> None:
    with pytest.raises(ValidationError, match="eagle3"):
        Eagle3SpeculatorConfig.from_dict(EAGLE)


def test_an_algorithm_of_the_users_own(tmp_path: Path) -> None:
    @SpeculatorModelConfig.register("own")
    class OwnConfig(SpeculatorModelConfig):
        speculators_model_type: Literal["own"] = "own"
        rank: int = 4

    class Shelf(BaseModel):
        configs: list[SpeculatorModelConfig]

    try:
        reload_schemas()
        given = EAGLE | {"speculators_model_type": "own", "rank": 2}
        config = SpeculatorModelConfig.from_dict(given)
        assert type(config) is OwnConfig and config.rank == 2
        config.save_pretrained(tmp_path)
        assert SpeculatorModelConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()
        assert [type(c) for c in Shelf.model_validate({"configs": [given, EAGLE]}).configs] == [
            OwnConfig,
            EagleSpeculatorConfig,
        ]
    finally:
        assert SpeculatorModelConfig.registry is not None
        del SpeculatorModelConfig.registry["own"]
        reload_schemas()


def test_default_proposal_method_must_be_there() -> None:
    with pytest.raises(ValidationError, match="default_proposal_method 'tree' must match the proposal_type"):
        SpeculatorsConfig.model_validate(SPECULATORS | {"default_proposal_method": "tree"})


@pytest.mark.parametrize(
    ("argument", "name"), [({}, "org/llama"), ({"name_or_path": None}, None), ({"name_or_path": "mine"}, "mine")]
)
def test_a_verifier_from_its_config(argument: dict[str, Any], name: str | None) -> None:
    config = LlamaConfig(architectures=["LlamaForCausalLM"], name_or_path="org/llama")
    expected = VerifierConfig(name_or_path=name, architectures=["LlamaForCausalLM"])
    assert VerifierConfig.from_config(config, **argument) == expected


def test_a_verifier_without_architectures() -> None:
    assert VerifierConfig.from_config(LlamaConfig(name_or_path="x")).architectures == []


def test_a_verifier_from_its_file(tmp_path: Path) -> None:
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    expected = VerifierConfig(name_or_path=str(tmp_path), architectures=["LlamaForCausalLM"])
    assert VerifierConfig.from_pretrained(str(tmp_path)) == expected
