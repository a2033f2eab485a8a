"""This project's verdict on good and broken drafts against vLLM's own, which tools/vllm_verdicts.py asked for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from vllm_cases import discovered
from vllm_verdicts import read_golden, write_folder

from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.export.checklist import judge
from speculators.utils.messages import WrongInput
from tests.export.conftest import export_settings

ALGORITHMS = discovered()
GOLDEN = read_golden()
CASES = GOLDEN["cases"]
# What vLLM loads without an error, and then computes otherwise than the draft was trained.
SILENT = {name: why for cases in ALGORITHMS.values() for name, why in cases.silent.items()}
# Where this project is stricter than vLLM: never the other way.
STRICTER = {name: why for cases in ALGORITHMS.values() for name, why in cases.stricter.items()}
EXPORT = export_settings("vllm", GOLDEN["vllm"])


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """One case names a verifier that is nowhere; the Hub is not asked for it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def levels(tmp_path: Path) -> Callable[[str], set[str]]:
    """Levels of what `speculators check FOLDER export.target=vllm` finds in a case's folder."""

    def judged(name: str) -> set[str]:
        write_folder(GOLDEN["bases"], CASES[name], tmp_path / "draft")
        return {finding.level for finding in judge(tmp_path / "draft", EXPORT).findings}

    return judged


@pytest.mark.parametrize("name", [name for name in CASES if name not in STRICTER | SILENT])
def test_the_same_verdict(name: str, levels: Callable[[str], set[str]]) -> None:
    found = levels(name)
    assert ("refused" in found) == (CASES[name]["verdict"] == "refuses"), CASES[name]
    assert "refused" in found or "wrong" not in found


@pytest.mark.parametrize("name", SILENT)
def test_what_vllm_loads_and_computes_wrongly(name: str, levels: Callable[[str], set[str]]) -> None:
    assert CASES[name]["verdict"] == "loads"
    assert "wrong" in (found := levels(name)) and "refused" not in found


@pytest.mark.parametrize("name", STRICTER)
def test_where_vllm_is_more_lenient(name: str, levels: Callable[[str], set[str]]) -> None:
    assert CASES[name]["verdict"] == "loads" and levels(name) & {"refused", "wrong"}


@pytest.mark.parametrize("name", CASES)
def test_what_obeys_the_format_can_be_read(name: str, tmp_path: Path) -> None:
    """A config without a finding is one that `from_dict` reads."""
    write_folder(GOLDEN["bases"], CASES[name], tmp_path)
    if not any(finding.bad for finding in judge(tmp_path, EXPORT.model_copy(update={"target": "none"})).findings):
        SpeculatorModelConfig.from_dict(json.loads((tmp_path / "config.json").read_text()))


def test_the_golden_files_hold_the_listed_cases() -> None:
    """A case that was added or changed without asking vLLM again."""
    listed = {case["name"]: case for cases in ALGORITHMS.values() for case in cases.listed}
    assert {name: case.keys() & {"base", "set", "delete", "tensors"} for name, case in CASES.items()} == {
        name: case.keys() - {"name"} for name, case in listed.items()
    }
    assert all(CASES[name] | case == CASES[name] for name, case in listed.items())


@pytest.mark.parametrize(("name", "overrides"), [base for cases in ALGORITHMS.values() for base in cases.bases.items()])
def test_a_composed_run_gets_the_verdict_of_its_export(name: str, overrides: list[str]) -> None:
    """What vLLM refuses after training is refused before."""
    if CASES[name]["verdict"] == "loads":
        compose([*overrides, "export=vllm"])
    else:
        with pytest.raises(WrongInput, match="vllm 0.32.0 cannot serve this"):
            compose([*overrides, "export=vllm"])
