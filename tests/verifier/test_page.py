"""docs/verifiers.md says of every family what its model shows."""

from pathlib import Path

import pytest

from speculators.composition.compose import compose
from speculators.export.preflight import CannotServe, plan
from speculators.format.published import speculator_dict
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.in_process import Verifier

from .families import FAMILIES, random_model

PAGE = Path(__file__).parents[2] / "docs" / "verifiers.md"
ROWS = {
    cells[0]: tuple(cells[1:4])
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and (cells := [c.strip() for c in line.strip("|").split("|")])[0] != "family"
}


def test_the_table_has_every_family() -> None:
    assert list(ROWS) == list(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_what_the_model_shows(family: str, tmp_path: Path) -> None:
    model = random_model(family)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    verifier = Verifier(model)
    facts = VerifierFacts.read(str(tmp_path))
    run = compose(["algorithm=eagle3", "verifier=hf", f"verifier.name_or_path={tmp_path}", "data=jsonl", "data.path=x"])
    asked = run.model_copy(update={"export": run.export.model_copy(update={"target": "vllm"})})
    try:
        plan(asked, speculator_dict(run, facts), facts)
        served = "served"
    except CannotServe:
        served = "refused"
    packed, trees = "packed" if verifier.isolates else "a row each", "no" if verifier.other_layers else "yes"
    assert ROWS[family] == (packed, trees, served)
