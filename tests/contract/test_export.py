"""What every algorithm publishes: the same tensors again, and the names that engines read.

After a wanted change, SPECULATORS_WRITE_GOLDEN=1 makes test_the_keys_are_golden write its files anew.
"""

import importlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file

from speculators.export.preflight import CannotServe, plan
from speculators.export.publish import publish
from speculators.format.published import speculator_dict
from speculators.model import SpeculatorModel
from speculators.settings.run_config import RunConfig
from speculators.utils.discovery import packages

from .conftest import Case

GOLDEN = Path(__file__).parent / "golden"


def test_a_published_draft_is_the_trained_one(either: Case, tmp_path: Path) -> None:
    """Loaded again it has the same class and every tensor bit for bit, and computes the same."""
    model = either.shaken()
    again = SpeculatorModel.from_pretrained(publish(model, either.run, either.facts, tmp_path)).eval()
    assert type(again) is type(model)
    old = model.state_dict() | dict(model.named_buffers())
    new = again.state_dict() | dict(again.named_buffers())
    assert old.keys() == new.keys()
    assert [n for n in old if not torch.equal(old[n], new[n]) or old[n].dtype != new[n].dtype] == []
    batch = either.batch(either.texts)
    for new_term, old_term in zip(either.rows(again, batch).terms, either.rows(model, batch).terms, strict=True):
        # Not bit for bit: a product with a vector is rounded by where its matrix begins in memory.
        torch.testing.assert_close(new_term.input_RI, old_term.input_RI, rtol=1e-5, atol=1e-5)


def for_engine(case: Case, engine: str) -> RunConfig:
    """The case's run, exported for an engine."""
    return case.run.model_copy(update={"export": case.run.export.model_copy(update={"target": engine})})


def test_an_engine_would_load_it(case: Case, tmp_path: Path) -> None:
    """Every engine that the algorithm is made for finds nothing to refuse."""
    for engine in type(case.run.algorithm).engines:
        assert publish(case.shaken(), for_engine(case, engine), case.facts, tmp_path / engine).is_dir()


def test_what_passes_before_training_is_exported(either: Case, tmp_path: Path) -> None:
    """Whatever the settings: a draft that the engine's table lets pass is a folder that the checklist lets pass."""
    for engine in type(either.run.algorithm).engines:
        run = for_engine(either, engine)
        try:
            plan(run, speculator_dict(run, either.facts), either.facts)
        except CannotServe:
            continue
        assert publish(either.shaken(), run, either.facts, tmp_path / engine).is_dir()


def test_the_keys_are_golden(case: Case, tmp_path: Path) -> None:
    """Names, shapes and dtypes of the default settings' tensors are those of the golden file."""
    folder = publish(case.fresh(), case.run, case.facts, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    found = {n: [*t.shape, str(t.dtype).removeprefix("torch.")] for n, t in sorted(tensors.items())}
    name = case.run.algorithm.name
    package = Path(importlib.import_module(packages()[name]).__file__ or "").parent
    # An installed package brings its own file.
    file = GOLDEN / f"{name}.json" if package.parent.name == "models" else package / "golden.json"
    if os.environ.get("SPECULATORS_WRITE_GOLDEN"):
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(spec)}" for name, spec in found.items())
        file.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    assert found == json.loads(file.read_text(encoding="utf-8"))
