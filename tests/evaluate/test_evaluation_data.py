"""Prompts of evaluation.data: decoded beside the held-out ones, recorded, reported, and compared with the training data."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from speculators.cli.launch import launch
from speculators.cli.main import app
from speculators.composition.compose import compose, pinned
from speculators.data.evaluation_data import evaluation_data
from speculators.data.prepare import train_prompts
from speculators.data.template import ChatTemplate
from speculators.runfolder.keys import result_key, weights_key
from speculators.runfolder.result import load_result
from speculators.runfolder.run_yaml import load
from speculators.utils import digest
from tests.data.test_prepare import numbered

CHAT = Path(str(files("speculators.assets"))).joinpath("chat.jsonl").read_text(encoding="utf-8").splitlines()
SIZES = ["evaluation.num_prompts=6", "evaluation.max_new_tokens=12"]
FEW = [*SIZES, "trainer.max_steps=8", "trainer.batch_size=1", "launch.num_threads=1", "proposal.speculative_tokens=3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training file of 90 conversations, and prompts: two that are trained on, one of them twice, and four others."""
    place = tmp_path_factory.mktemp("evaluation_data")
    (place / "train.jsonl").write_text("\n".join(CHAT[:90]))
    run = compose(["data=jsonl", f"data.path={place / 'train.jsonl'}"])
    trained = train_prompts(run.data, run.seed)
    template = ChatTemplate.of(run.verifier, run.data)
    everything = run.model_copy(
        update={"evaluation": run.evaluation.model_copy(update={"data": run.data.model_copy(), "num_prompts": 90})}
    )
    known = evaluation_data(everything, template, trained)
    assert known is not None and known.trained_on is not None and 0 < len(known.trained_on) < len(known.prompts)
    numbers = [int(at.rpartition(":")[2]) - 1 for at in known.trained_on[:2]]
    prompts = [CHAT[numbers[0]], CHAT[numbers[1]], CHAT[numbers[0]], *CHAT[200:204]]
    (place / "prompts.jsonl").write_text("\n".join([json.dumps(numbered(1)).replace("messages", "nothing"), *prompts]))
    return place


def overrides(folder: Path) -> list[str]:
    return [
        "data=jsonl",
        f"data.path={folder / 'train.jsonl'}",
        "data.max_length=320",
        f"evaluation.data={{path: {folder / 'prompts.jsonl'}}}",
    ]


def evaluated(folder: Path, output: str, *words: str) -> dict[str, Any]:
    """result.json of `speculators evaluate`."""
    command = ["evaluate", str(folder / "run" / "checkpoint"), *SIZES, f"output={folder / output}", *words]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return json.loads((folder / output / "result.json").read_text())


@pytest.mark.slow
def test_a_run_reports_both(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beside `speculators evaluate` on the file alone; in result.json, texts, card, tracker, page and run.yaml."""
    run = folder / "run"
    pinned([*FEW, *overrides(folder)], run)
    caplog.set_level("INFO")
    objective = launch(run)
    result, prompts = load_result(run), folder / "prompts.jsonl"
    own = result.evaluation_data
    assert own is not None and (result.source, own.source) == (None, "prompts.jsonl")
    # Line 1 has no conversation; lines 2 and 3 are trained on, line 4 is line 2.
    assert (
        own.num_prompts == 6 and own.trained_on == ["prompts.jsonl:2", "prompts.jsonl:3"] and result.trained_on is None
    )
    assert objective == result.objective == own.objective == own.acceptance_length != result.acceptance_length
    for each in result.each:
        assert each.acceptance_length_interval is not None
        low, high = each.acceptance_length_interval
        assert 1 <= low <= each.acceptance_length <= high <= 4
        assert (
            len(each.prompts) == len(each.tokens) == len(each.rounds) == each.num_prompts
            and each.matches_plain_decoding
        )
        assert sum(map(sum, each.rounds)) == each.accepted
    assert load(run).read["evaluation_data"] == digest.of_file(prompts)

    alone = evaluated(folder, "alone", "data=jsonl", f"data.path={prompts}")
    assert alone["acceptance_length"] == own.acceptance_length and alone["evaluation_data"] is None
    assert alone["acceptance_length_interval"] == list(own.acceptance_length_interval or ())
    both = evaluated(folder, "both", f"evaluation.data={{path: {prompts}}}")
    assert both["acceptance_length"] == result.acceptance_length
    for key in ("acceptance_length", "trained_on"):
        assert both["evaluation_data"][key] == vars(own)[key]

    card = (run / "checkpoint" / "README.md").read_text()
    assert "| | held-out prompts | prompts of `prompts.jsonl` |" in card and str(folder) not in card
    assert (
        f"| **{result.acceptance_length:.2f}** (95 %: " in card and f"| **{own.acceptance_length:.2f}** (95 %: " in card
    )
    assert "6 prompts of another source, of which 2 are also trained on." in card
    assert not any(str(folder) in (run / "checkpoint" / name).read_text() for name in ("run.yaml", "result.json"))
    assert "6 prompts of prompts.jsonl, 2 of them also in the training data (first: prompts.jsonl:2)" in caplog.text

    events = min(run.rglob("events.out.tfevents*"), key=lambda file: len(file.parts))
    read = EventAccumulator(str(events)).Reload()
    assert read.Scalars("evaluation/acceptance_length")[0].value == pytest.approx(result.acceptance_length)
    assert read.Scalars("evaluation_data/acceptance_length")[0].value == pytest.approx(own.acceptance_length)
    done = CliRunner().invoke(app, ["report", str(run)])
    page = (run / "report.html").read_text()
    assert done.exit_code == 0 and "on evaluation.data" in page and "2 of them also trained on" in page

    copy = [str(run / "checkpoint" / "run.yaml"), f"data.path={folder / 'train.jsonl'}"]
    prompts.write_text(prompts.read_text() + "\n")
    done = CliRunner().invoke(app, ["run", *copy, f"evaluation.data.path={prompts}", "--output", str(folder / "again")])
    assert done.exit_code == 2 and "the evaluation data has changed since run.yaml was written" in done.output


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{path: nowhere.jsonl}", "evaluation.data.path: no file matches nowhere.jsonl"),
        ("{path: EMPTY}", "evaluation.data: the source is empty"),
        ("{path: a, name: b}", "evaluation.data: a source must have either path or name"),
        ("{paht: a}", "evaluation.data.paht is not a setting"),
        ("nowhere.jsonl", "evaluation.data: should be {path: FILE} or {name: DATASET} (got 'nowhere.jsonl')"),
    ],
)
def test_a_dry_run_refuses_what_cannot_be_read(value: str, said: str, tmp_path: Path) -> None:
    """Before anything is loaded, with the key."""
    (tmp_path / "empty.jsonl").write_text("")
    value = value.replace("EMPTY", str(tmp_path / "empty.jsonl"))
    done = CliRunner().invoke(app, ["check", "algorithm=eagle3", f"evaluation.data={value}"])
    assert done.exit_code == 2 and said in done.output, done.output


def test_settings_that_do_not_decode_it_are_the_same_weights(folder: Path) -> None:
    """Prompts to decode decide the result of a trial, not its weights."""
    with_prompts, without = compose(overrides(folder)), compose(overrides(folder)[:3])
    assert weights_key(with_prompts) == weights_key(without) and result_key(with_prompts) != result_key(without)
