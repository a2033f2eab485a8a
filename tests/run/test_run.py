"""A whole run, short: what it leaves behind, that it repeats to the bit, and that evaluating its checkpoint agrees."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from speculators import SpeculatorModelConfig
from speculators.cli.launch import launch
from speculators.cli.main import app
from speculators.composition.compose import pinned
from speculators.runfolder.folder import RunFolder
from speculators.runfolder.run_yaml import load
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.messages import RunFailed
from tests.verifiers import drafted_for as drafted_for

SHORT = [
    "trainer.max_steps=3",
    "trainer.batch_size=1",
    "data.max_conversations=120",
    "evaluation.num_prompts=3",
    "evaluation.max_new_tokens=16",
]
# An algorithm of each kind of draft: recurrent, a block, a language model, a verifier's own layer.
KINDS = ("eagle3", "dflash", "independent", "mtp")
KEYS = {
    "acceptance_length",
    "acceptance_length_interval",
    "acceptance_per_position",
    "speculative_tokens",
    "num_prompts",
    "matches_plain_decoding",
    "ties",
    "tokens_per_second",
    "plain_tokens_per_second",
}


def started(folder: Path, *overrides: str) -> Path:
    """A run that has ended."""
    pinned([*SHORT, "tracker=none", "launch.num_threads=1", *overrides], folder)
    launch(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(name, marks=() if name in KINDS else pytest.mark.long) for name in AlgorithmSettings.names()],
)
def test_a_run_publishes_what_it_measured_and_repeats_to_the_bit(
    algorithm: str, drafted_for: Callable[[str], list[str]], tmp_path: Path
) -> None:
    """Two runs of one pin have equal weights; result.json, config.json and a second evaluation agree."""
    first = started(tmp_path / "first", f"algorithm={algorithm}", *drafted_for(algorithm))
    result = json.loads((first / "result.json").read_text())
    assert result.keys() >= KEYS
    assert result["matches_plain_decoding"] is True and result["num_prompts"] == 3
    assert len(result["acceptance_per_position"]) == result["speculative_tokens"] == 5
    assert SpeculatorModelConfig.from_pretrained(first / "checkpoint").speculators_model_type == algorithm

    again = tmp_path / "again"
    again.mkdir()
    (again / "run.yaml").write_text((first / "run.yaml").read_text())
    launch(again)
    weights = [load_file(folder / "checkpoint" / "model.safetensors") for folder in (first, again)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (first / "checkpoint/config.json").read_text() == (again / "checkpoint/config.json").read_text()

    command = ["evaluate", str(first / "checkpoint"), f"output={tmp_path / 'evaluation'}"]
    done = CliRunner().invoke(app, [*command, "evaluation.num_prompts=3", "evaluation.max_new_tokens=16"])
    assert done.exit_code == 0, done.output
    second = json.loads((tmp_path / "evaluation" / "result.json").read_text())
    assert second["acceptance_length"] == result["acceptance_length"]
    assert second["acceptance_per_position"] == result["acceptance_per_position"]


def test_a_lossy_proposal_is_named_wherever_its_result_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the log, run.yaml, result.json, the model card and the report; the texts are not compared."""
    lossy = ["proposal.verifier_accept_k=3", "proposal.accept_tolerance=2"]
    caplog.set_level("INFO")
    folder = started(tmp_path / "run", "algorithm=medusa", "data.max_conversations=40", "trainer.max_steps=1", *lossy)
    page = tmp_path / "page.html"
    assert CliRunner().invoke(app, ["report", str(folder), f"--output={page}"]).exit_code == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["matches_plain_decoding"] is None
    assert result["lossy"] == load(folder).lossy
    files = folder / "run.yaml", folder / "checkpoint" / "README.md", page
    for text in (caplog.text, *(file.read_text() for file in files)):
        assert re.search("lossy.*verifier_accept_k=3 with accept_tolerance=2.0", text.replace("\\", "")), text


@pytest.mark.long
def test_two_processes_train_like_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Under torchrun and sharded the losses are those of one process, and so is the draft that only the first one publishes."""
    same = ["trainer.max_steps=3", "data.max_conversations=120", "evaluation.num_prompts=1", "trainer.log_every=1"]
    losses, drafts = [], []
    two = ["launch=torchrun", "launch.num_processes=2", "launch.sharding=fsdp2"]
    for name, launch_options, size in (("one", [], 2), ("two", two, 1)):
        folder = started(tmp_path / name, *same, *launch_options, f"trainer.batch_size={size}")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines])
        assert (folder / "DONE").exists()
        drafts.append(load_file(folder / "checkpoint" / "model.safetensors"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    one, both = drafts
    assert {name: (t.shape, t.dtype) for name, t in one.items()} == {
        name: (t.shape, t.dtype) for name, t in both.items()
    }
    furthest = max((one[name].double() - both[name].double()).abs().max().item() for name in one)
    print(f"losses: {losses}; largest difference of a published weight: {furthest:.1e}")
    assert furthest < 1e-4
    # Both processes wrote to this file; one of them speaks.
    assert (folder / "train.log").read_text().count(" - trained: step 3 of 3") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "told", [pytest.param("all", marks=pytest.mark.long), "torchrun", pytest.param("one", marks=pytest.mark.long)]
)
def test_processes_that_train_together_stop_together(told: str, tmp_path: Path) -> None:
    """A signal to the terminal's group, to torchrun, or to one process: all stop after the same step, saved."""
    long = ["trainer.epochs=50", "trainer.batch_size=1", "data.max_conversations=100", "trainer.log_every=1"]
    long += ["launch=torchrun", "launch.num_processes=2", "tracker=none", f"hydra.run.dir={tmp_path}"]
    command = [sys.executable, "-m", "speculators", "train", *long]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True, text=True)  # fmt: skip
    assert process.stdout is not None
    assert any(line.startswith("step 2/") for line in process.stdout)
    match told:
        case "all":
            os.killpg(process.pid, signal.SIGINT)
        case "torchrun":
            process.terminate()
        case "one":
            psutil.Process(process.pid).children()[-1].terminate()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "the state is saved" in said and "Traceback" not in said, said
    steps = [int(path.name.removeprefix("step_")) for path in (tmp_path / "checkpoints").iterdir()]
    assert len(steps) == 1 and steps[0] >= 2
    assert not RunFolder(tmp_path).failed.exists()


@pytest.mark.slow
def test_a_folder_is_one_runs(tmp_path: Path) -> None:
    """Other settings of the weights do not take over a trained run; another evaluation measures its weights anew."""
    folder, weights = tmp_path / "run", "checkpoint/model.safetensors"

    def train(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "speculators", "train", f"hydra.run.dir={folder}", *SHORT, *overrides]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=200)

    assert train().returncode == 0
    left = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    other = train("seed=7", "trainer.max_steps=4", "evaluation.num_prompts=2")
    assert other.returncode == 2 and "another seed, trainer.max_steps; choose another folder" in other.stderr, (
        other.stderr
    )
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == left

    assert train("evaluation.num_prompts=2").returncode == 0
    assert (folder / weights).read_bytes() == left[folder / weights]
    assert json.loads((folder / "result.json").read_text())["num_prompts"] == 2


@pytest.mark.slow
def test_two_runs_that_start_together_do_not_share_a_folder(tmp_path: Path) -> None:
    """Neither pin is lost: the second finds the first one's weights, and is refused."""
    command = [sys.executable, "-m", "speculators", "train", f"hydra.run.dir={tmp_path / 'run'}", *SHORT]
    both = [
        subprocess.Popen([*command, f"seed={seed}"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for seed in (1, 2)
    ]
    said = [process.communicate(timeout=200)[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    assert "another seed" in said[[process.returncode for process in both].index(2)]


def test_a_copied_pin_is_run_again_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published run.yaml, in a new folder: the same bits once the place of the data is typed; not on other data."""
    mine = tmp_path / "mine" / "algorithm" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    packaged = Path(str(files("speculators.conf"))) / "algorithm" / "eagle3.yaml"
    mine.write_text(re.sub(r"(?m)^draft_vocab_size: .*", "draft_vocab_size: 1024", packaged.read_text()))
    data = tmp_path / "data.jsonl"
    rows = Path(str(files("speculators.assets"))).joinpath("chat.jsonl").read_text().splitlines(True)[:150]
    data.write_text("".join(rows))
    first = started(
        tmp_path / "first", f"hydra.searchpath=[file://{tmp_path / 'mine'}]", "algorithm=mine", "data=jsonl",
        f"data.path={data}", "data.max_length=320",
    )  # fmt: skip
    pin = load(first)
    assert pin.threads == 1 and pin.read.keys() == {"data", "verifier", "tokenizer", "chat_template", "vocabulary_map"}
    assert str(tmp_path) not in (first / "checkpoint" / "run.yaml").read_text()

    command = ["run", str(first / "checkpoint" / "run.yaml")]

    def refused(folder: str, *typed: str) -> str:
        done = CliRunner().invoke(app, [*command, *typed, "--output", folder])
        assert done.exit_code == 2 and isinstance(done.exception, SystemExit), done.output
        return done.output

    monkeypatch.chdir(first)
    said = refused("second")
    assert "data.path: no file matches data.jsonl" in said
    assert "if it is elsewhere, add data.path=... to the command" in said
    line = [sys.executable, "-m", "speculators", *command, f"data.path={data}", "--output", str(tmp_path / "second")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "defaults that changed since cannot be reported: file://mine does not exist" in done.stdout.splitlines()
    for name in ("config.json", "model.safetensors", "run.yaml"):
        assert (first / "checkpoint" / name).read_bytes() == (tmp_path / "second" / "checkpoint" / name).read_bytes()

    data.write_text("".join(rows[:-1]))
    said = refused(str(tmp_path / "third"), f"data.path={data}")
    assert f"data.path={data}: the data has changed since run.yaml was written" in said
    assert not (tmp_path / "third").exists()


@pytest.mark.slow
def test_a_pin_of_schema_1_still_runs(tmp_path: Path) -> None:
    """As its values say, and with what it lacks filled in."""
    command = [sys.executable, "-m", "speculators", "run", str(Path(__file__).parent / "pins" / "schema_1.yaml")]
    command += ["--output", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "schema 1 migrated to" in done.stdout
    assert json.loads((tmp_path / "run" / "result.json").read_text())["matches_plain_decoding"] is True
    assert load(tmp_path / "run").read.keys() == {"data", "verifier", "tokenizer", "chat_template"}


def test_a_failed_run_leaves_its_traceback(tmp_path: Path) -> None:
    """Data that is not there fails the run with a file FAILED, and a message that names the setting."""
    with pytest.raises(RunFailed, match="data.path"):
        started(tmp_path, "data=jsonl", "data.path=/nowhere.jsonl")
    assert "Traceback" in RunFolder(tmp_path).failed.read_text()


@pytest.mark.slow
def test_the_wheel_works_from_another_directory(tmp_path: Path) -> None:
    """Groups and embedded verifier are in the wheel: it composes a run where the repository is not."""
    root = Path(__file__).parents[2]
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(root)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    unpack = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(tmp_path / "site")]
    subprocess.run([*unpack, str(wheel)], check=True, capture_output=True, timeout=300)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import speculators; print(speculators.__file__)\n"
        "from speculators.composition.compose import compose\n"
        "from speculators.verifier.facts import VerifierFacts\n"
        "print(VerifierFacts.read(compose(['recipe=quick']).verifier.name_or_path).vocab_size)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "site/speculators/__init__.py"), "4096"]
