"""Every algorithm composes from its YAML and refuses what it does not know."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

import speculators
from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.format.published import speculator_dict
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.messages import WrongInput
from speculators.verifier.in_process import Verifier

from .conftest import ALGORITHMS, Case


def test_there_are_algorithms() -> None:
    """Discovery finds more than one, or the other tests of this folder test nothing."""
    assert len(ALGORITHMS) > 1


def test_composes(case: Case) -> None:
    """The group file gives valid settings, and the published config reads what becomes of them."""
    run, name = case.run, case.run.algorithm.name
    assert type(run.algorithm) is AlgorithmSettings.named(name) and run.algorithm.name == name
    config = SpeculatorModelConfig.from_dict(speculator_dict(run, case.facts))
    assert config.speculators_model_type == name
    for key in run.algorithm.published_fields.model_fields:
        chosen = run.algorithm.model_dump()[key]
        assert chosen is None or config.to_dict()[key] == chosen


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_unknown_key_is_refused_with_the_nearest(name: str) -> None:
    """A slip in any key of the algorithm names the right one."""
    keys = AlgorithmSettings.named(name).model_fields
    with pytest.raises(WrongInput) as refused:
        compose([f"algorithm={name}", *(f"+algorithm.{key}x=1" for key in keys)])
    assert len(refused.value.messages) == len(keys)
    for key in keys:
        assert re.search(rf"algorithm\.{key}x .*did you mean algorithm\.{key}\?", str(refused.value)), key


def test_changed_settings_differ_and_are_valid(case: Case, either: Case) -> None:
    """The settings that the other tests call `otherwise` are really others."""
    published = speculator_dict(either.run, either.facts)
    assert SpeculatorModelConfig.from_dict(published).to_dict()
    assert (either.run.algorithm != case.run.algorithm) == (either is not case)


def test_another_class_of_verifier_is_refused(verifiers: Mapping[str, tuple[Path, Verifier]]) -> None:
    """Of algorithms that draft for certain classes alone, before anything starts; the message names them."""
    limited = [name for name in ALGORITHMS if AlgorithmSettings.named(name).verifier_architectures]
    llama, _ = verifiers["LlamaForCausalLM"]
    for name in limited:
        classes = " or ".join(AlgorithmSettings.named(name).verifier_architectures)
        with pytest.raises(
            WrongInput, match=f"drafts for verifiers of the class {classes}, and .* is a LlamaForCausalLM"
        ):
            compose([f"algorithm={name}", f"verifier.name_or_path={llama}", "data.regenerate=true"])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_only_its_own_folder_names_an_algorithm(name: str) -> None:
    """Everything else finds it by looking: no string of the code is its name, but for an engine's word for its own method."""
    package = Path(speculators.__file__).parent
    others = [f for f in package.rglob("*.py") if not f.is_relative_to(package / "models" / name)]
    nodes = [node for f in others for node in ast.walk(ast.parse(f.read_text(encoding="utf-8")))]
    engines = [n.value for n in nodes if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "method"]
    assert nodes
    assert name not in [n.value for n in nodes if isinstance(n, ast.Constant) and n not in engines]
