"""The published config against what upstream's release did with the same dicts (tests/golden/make_upstream.py)."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from speculators import SpeculatorModelConfig, SpeculatorsConfig, TokenProposalConfig, VerifierConfig
from speculators.config import FORMAT_VERSION
from speculators.models.dflash import DFlashSpeculatorConfig
from speculators.models.dspark import DSparkSpeculatorConfig
from speculators.models.eagle3 import Eagle3SpeculatorConfig
from speculators.models.mtp import MTPSpeculatorConfig
from speculators.models.peagle import PEagleSpeculatorConfig
from speculators.proposals import GreedyTokenProposalConfig
from speculators.utils import ClassRegistryMixin, PydanticClassRegistryMixin

SCRIPT = Path(__file__).parents[1] / "golden" / "make_upstream.py"
GOLDEN = json.loads(SCRIPT.with_name("upstream.json").read_text())
CLASSES = [
    SpeculatorModelConfig,
    SpeculatorsConfig,
    VerifierConfig,
    TokenProposalConfig,
    GreedyTokenProposalConfig,
    Eagle3SpeculatorConfig,
    PEagleSpeculatorConfig,
    DFlashSpeculatorConfig,
    DSparkSpeculatorConfig,
    MTPSpeculatorConfig,
]
# Fields that upstream does not have, whose readers pass over them.
OURS = {"confidence_threshold"}


def comparable(values: Any) -> Any:
    """Values as they come back from JSON, without the version of transformers, upstream's pointer to Python, and our own."""
    if isinstance(values, dict):
        left_out = {"transformers_version", "auto_map", *OURS}
        return {str(k): comparable(v) for k, v in values.items() if k not in left_out}
    if isinstance(values, list | tuple):
        return [comparable(v) for v in values]
    return values.removeprefix("torch.") if isinstance(values, str) else values


@pytest.mark.parametrize("name", GOLDEN["configs"])
def test_a_dict_becomes_the_same_config(name: str, tmp_path: Path) -> None:
    golden = GOLDEN["configs"][name]
    config = SpeculatorModelConfig.from_dict(golden["given"])
    assert type(config).__name__ == golden["class"]
    assert comparable(config.to_dict()) == comparable(golden["to_dict"])
    config.save_pretrained(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["config.json"]
    assert comparable(json.loads((tmp_path / "config.json").read_text())) == comparable(golden["saved"])


@pytest.mark.parametrize("name", [n for n in GOLDEN["configs"] if n != "least"])
def test_a_file_that_upstream_saved_loads_and_saves_value_for_value(name: str, tmp_path: Path) -> None:
    saved = GOLDEN["configs"][name]["saved"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    config = SpeculatorModelConfig.from_pretrained(tmp_path)
    config.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert comparable(again) == comparable(saved)
    assert "model_type" not in again and "auto_map" not in again


def without_types(message: str) -> str:
    """The message up to the list of known types, which differs."""
    return message.split("any of the expected tags")[0].split("Should contain one of")[0]


@pytest.mark.parametrize("name", GOLDEN["bad"])
def test_a_bad_dict_gives_the_same_error(name: str) -> None:
    golden = GOLDEN["bad"][name]
    with pytest.raises(ValueError) as caught:
        SpeculatorModelConfig.from_dict(golden["given"])
    if "error" in golden:
        assert [type(caught.value).__name__, str(caught.value)] == [golden["error"], golden["message"]]
        return
    assert isinstance(caught.value, ValidationError)
    own = [(e["type"], list(e["loc"]), without_types(e["msg"])) for e in caught.value.errors()]
    assert own == [(e["type"], e["loc"], without_types(e["msg"])) for e in golden["validation"]]


@pytest.mark.parametrize("config", CLASSES, ids=lambda c: c.__name__)
def test_fields_and_defaults(config: Any) -> None:
    own = {}
    for name, field in config.model_fields.items():
        if name in OURS:
            continue
        value = "required" if field.is_required() else field.get_default(call_default_factory=True)
        own[name] = value if isinstance(value, str | int | float | list | None) else type(value).__name__
    assert own == GOLDEN["fields"][config.__name__]


def test_registry_errors() -> None:
    class Empty(ClassRegistryMixin):
        pass

    class Full(ClassRegistryMixin):
        pass

    class Models(PydanticClassRegistryMixin):
        pass

    Full.register("int")(int)
    attempts = {
        "nothing registered": lambda: Empty.registered_classes(),
        "name is no string": lambda: Full.register(3),  # pyright: ignore[reportArgumentType]  the point of it
        "no class": lambda: Full.register_decorator("text"),  # pyright: ignore[reportArgumentType]
        "name is no string, called": lambda: Full.register_decorator(float, name=3),  # pyright: ignore
        "taken": lambda: Full.register("int")(float),
        "no model": lambda: Models.register("int")(int),
    }
    for name, attempt in attempts.items():
        with pytest.raises((ValueError, TypeError)) as caught:
            attempt()
        assert [type(caught.value).__name__, str(caught.value)] == GOLDEN["registry_errors"][name], name


def test_the_version_of_the_format_is_upstreams() -> None:
    assert GOLDEN["fields"]["SpeculatorModelConfig"]["speculators_version"] == FORMAT_VERSION


@pytest.mark.slow
@pytest.mark.skipif(
    "SPECULATORS_UPSTREAM_PYTHON" not in os.environ, reason="names no Python that has upstream's release"
)
def test_upstream_reads_what_is_saved_here(tmp_path: Path) -> None:
    configs = [SpeculatorModelConfig.from_dict(g["given"]) for n, g in GOLDEN["configs"].items() if n != "least"]
    for i, config in enumerate(configs):
        config.save_pretrained(tmp_path / str(i))
    files = [str(tmp_path / str(i)) for i in range(len(configs))]
    command = [os.environ["SPECULATORS_UPSTREAM_PYTHON"], str(SCRIPT), "read", *files]
    # Elsewhere, so that upstream's package is imported and not the folder beside the tests.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for config, read in zip(configs, json.loads(done.stdout), strict=True):
        assert read["class"] == type(config).__name__
        assert comparable(read["to_dict"]) == comparable(config.to_dict())
        assert comparable(read["diff"]) == comparable(config.to_diff_dict())
