"""Folders and run.yaml files that somebody else made: nothing that they say runs their code or reaches beyond them."""

import json
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner
from vllm_verdicts import read_golden, write_folder

from speculators.cli.main import app
from speculators.composition.compose import compose, pinned
from speculators.execution.again import load_again
from speculators.execution.free import check_free
from speculators.runfolder.rights import as_typed, claimed, command
from speculators.runfolder.run_yaml import training_folder, write_pin
from speculators.utils.messages import WrongInput

OWN = ["tracker=none", "launch.num_threads=1", "algorithm=medusa"]
QUICK = ["data.max_conversations=60", "trainer.max_steps=1", "evaluation.num_prompts=1", "evaluation.max_new_tokens=4"]


def call(*words: str | Path) -> tuple[int, str]:
    """Exit code and output of a `speculators` command; an exception that it did not foresee fails the test."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files of a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def started(folder: Path) -> Path:
    """What a run leaves that training could take over."""
    pinned([*QUICK, *OWN], folder)
    (folder / "checkpoints" / "step_1").mkdir(parents=True)
    (folder / "checkpoints" / "step_1" / "state.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("{}")
    return folder


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    """A file that is there once the verifier's Python has run."""
    return tmp_path / "executed"


@pytest.fixture
def verifier(tmp_path: Path, executed: Path) -> Path:
    """The embedded verifier with Python of its own."""
    folder = tmp_path / "verifier"
    shutil.copytree(Path(str(files("speculators.assets"))) / "tiny", folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(
        f"open({str(executed)!r}, 'w').close()\n"
        "from transformers import LlamaForCausalLM\n\nclass Model(LlamaForCausalLM):\n    pass\n"
    )
    return folder


@pytest.fixture
def draft(tmp_path: Path, verifier: Path) -> Path:
    """A published draft for it, whose run.yaml says that its Python is to be trusted."""
    folder = tmp_path / "draft"
    bases = read_golden()["bases"]
    named = {"speculators_config.verifier.name_or_path": str(verifier)}
    write_folder(bases, {"base": "eagle3", "set": named}, folder)
    pinned([*QUICK, f"verifier.name_or_path={verifier}", "verifier.trust_remote_code=true"], folder)
    return folder


def test_evaluating_runs_no_code_that_a_checkpoint_allows(draft: Path, executed: Path) -> None:
    """Only a person does, and then it runs, so that the attack is a real one."""
    code, output = call("evaluate", draft, *QUICK)
    assert code == 2 and not executed.exists()
    assert f"verifier.trust_remote_code=true in {draft / 'run.yaml'}: a file cannot grant this" in output
    assert call("evaluate", draft, "verifier.trust_remote_code=true", f"output={draft}", *QUICK)[0] == 0
    assert executed.exists()


def test_checking_names_what_a_file_claims(draft: Path, executed: Path) -> None:
    """Beside the verdict, for a person who goes on to evaluate the draft or to run its run.yaml."""
    code, output = call("check", draft)
    assert code == 0 and not executed.exists()
    assert f"note: verifier.trust_remote_code=true in {draft / 'run.yaml'}: a file cannot grant this" in output


def test_running_takes_rights_from_the_command_alone(tmp_path: Path, verifier: Path, executed: Path) -> None:
    """Each is named with its remedy, before anything is written or run; what is typed stands in the new run.yaml."""
    claims = {
        "verifier.trust_remote_code": True, "cache.dir": str(tmp_path / "victim"), "cache.limit_gb": 0.001,
        "tracker.name": "wandb", "device": "cuda:3",
    }  # fmt: skip
    stranger, mine = tmp_path / "stranger", tmp_path / "mine"
    run = pinned([*QUICK, "algorithm=eagle", f"verifier.name_or_path={verifier}", *as_typed(claims)], stranger)
    before = (stranger / "run.yaml").read_bytes()
    assert claimed(run) == claims
    assert command(stranger, run).startswith(f"speculators run {stranger} verifier.trust_remote_code=true cache.dir=")
    for words in ([stranger], [stranger, "--output", mine]):
        code, output = call("run", *words, *as_typed({"device": "cpu"}))
        assert code == 2 and output.startswith("4 problems; nothing was started:")
        assert all(f"{key}=" in output for key in claims if key != "device")
    assert [file.name for file in stranger.iterdir()] == ["run.yaml"] and not mine.exists() and not executed.exists()
    assert (stranger / "run.yaml").read_bytes() == before

    own = ["verifier.trust_remote_code=false", f"cache.dir={tmp_path / 'own'}", "cache.limit_gb=1", "tracker.name=none"]
    code, output = call("run", stranger / "run.yaml", "--output", mine, "device=cpu", *own)
    assert code == 0, output
    pin = load_again(mine, ["device=cpu", *own])[0]
    assert pin.run.device == "cpu" and pin.run.cache.dir == str(tmp_path / "own") and pin.read
    assert not executed.exists() and not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("seed=3", "seed: for a run.yaml only verifier.trust_remote_code, cache.dir"),
        ("device=tpu", "device: should be auto, cpu, mps"),
        ("cache.limit_gb=none", "cache.limit_gb: input should be a valid number (got 'none')"),
        ("device", "device: should be auto"),
    ],
)
def test_what_is_typed_is_checked(typed: str, message: str, tmp_path: Path) -> None:
    """Other keys are no rights, and a wrong value is refused as in any command."""
    pinned([], tmp_path)
    with pytest.raises(WrongInput) as refused:
        load_again(tmp_path, [typed])
    assert message in str(refused.value)


def test_a_run_that_claims_nothing_needs_no_words(tmp_path: Path) -> None:
    """Neither do those that ask for less than the defaults."""
    run = pinned(["tracker=none", "device=cpu"], tmp_path)
    assert claimed(run) == {} and load_again(tmp_path)[0].run == run
    assert command(tmp_path, run) == f"speculators run {tmp_path}"


@pytest.mark.parametrize(
    "where", ["..", "/{}", "../victim", "../trainings/..", "../trainings/../../victim", "trainings/0123456789ab",
              "../trainings/0123456789ab/", "../trainings/0123456789AB", "../trainings/0123456789ab\n", "./", ""]
)  # fmt: skip
def test_a_run_trains_in_its_own_folder(where: str, tmp_path: Path) -> None:
    """Or in that of its sweep: another place would be another run's, whose checkpoints it would take and remove."""
    victim = started(tmp_path / "victim")
    before = contents(victim)
    pinned([*QUICK, *OWN], tmp_path / "stranger")
    file = tmp_path / "stranger" / "run.yaml"
    where = where.format(str(victim).lstrip("/"))
    file.write_text(file.read_text().replace("training: .", f"training: {json.dumps(where)}"))
    code, output = call("run", tmp_path / "stranger")
    assert code == 2 and "training: must be . or ../trainings/HASH of the run's own sweep" in output
    assert contents(victim) == before


@pytest.mark.parametrize(
    "name", ["train.log", "run.lock", "DONE", "FAILED", "metrics.jsonl", "training.lock", "result.json", "README.md",
             "checkpoints", "checkpoint", "checkpoints/step_1", "checkpoints/partial", "checkpoint/config.json", "speculators"]
)  # fmt: skip
def test_links_in_a_folder_are_refused(name: str, tmp_path: Path) -> None:
    """By `run` and by what `train` asks before Hydra makes its folder: nothing is written through one."""
    stranger, victim = tmp_path / "stranger", tmp_path / "victim"
    pinned([*QUICK, *OWN], stranger)
    victim.mkdir()
    (victim / "chapter.txt").write_text("years of work")
    (stranger / name).parent.mkdir(exist_ok=True)
    (stranger / name).symlink_to(victim / "chapter.txt" if "." in name or name.isupper() else victim)
    code, output = call("run", stranger)
    assert code == 2 and f"{stranger / name}: it is a symbolic link" in output
    with pytest.raises(WrongInput, match="it is a symbolic link"):
        check_free(compose(OWN), stranger)
    assert contents(victim) == {"chapter.txt": b"years of work"}


@pytest.mark.parametrize("name", ["metrics.jsonl", "train.log", "checkpoints/step_1", "checkpoint/config.json"])
def test_pipes_in_a_folder_are_refused(name: str, tmp_path: Path) -> None:
    """Reading or writing one would wait for ever."""
    pinned([*QUICK, *OWN], tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    code, output = call("run", tmp_path)
    assert code == 2 and f"{tmp_path / name}: it is neither a file nor a folder; remove it" in output


def test_a_copy_is_written_through_no_link(tmp_path: Path) -> None:
    """Neither where run.yaml is copied to; a link to nothing does not count as a file."""
    pinned(OWN, tmp_path / "stranger")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.yaml").symlink_to(tmp_path / "victim")
    code, output = call("run", tmp_path / "stranger", "--output", tmp_path / "mine")
    assert code == 2 and f"{tmp_path / 'mine' / 'run.yaml'}: it is a symbolic link" in output
    assert not (tmp_path / "victim").exists()


@pytest.mark.slow
def test_training_writes_through_no_link(tmp_path: Path) -> None:
    """The command itself, which Hydra starts."""
    (tmp_path / "victim").write_text("years of work")
    for name in ("train.log", "run.yaml", "metrics.jsonl"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).symlink_to(tmp_path / "victim")
    command = [sys.executable, "-m", "speculators", "train", *QUICK, *OWN, f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 2 and done.stderr.startswith("3 problems; nothing was started:"), done.stderr
    assert (tmp_path / "victim").read_text() == "years of work"


def test_a_sweep_s_training_is_no_link(tmp_path: Path) -> None:
    """The folder that trials share is looked at like their own."""
    trial, victim = tmp_path / "sweep" / "trial", tmp_path / "victim"
    where = "../trainings/0123456789ab"
    write_pin(pinned(OWN, tmp_path / "other"), trial, training=where)
    shutil.rmtree(trial / where)
    victim.mkdir()
    (trial / where).symlink_to(victim)
    with pytest.raises(WrongInput, match="is a symbolic link"):
        training_folder(trial)
    (trial / where).unlink()
    (trial / where).parent.rmdir()
    (victim / "0123456789ab").mkdir()
    (trial / where).parent.symlink_to(victim)
    with pytest.raises(WrongInput, match="is a symbolic link"):
        training_folder(trial)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", *QUICK, *OWN, "launch=torchrun", "launch.num_processes=1", "hydra.run.dir=run"],
        ["train", "-m", *QUICK, *OWN, "hydra.sweep.dir=sweep"],
    ],
    ids=["command", "torchrun", "sweep"],
)
def test_the_current_folder_is_not_imported(words: list[str], tmp_path: Path, executed: Path) -> None:
    """Neither by `python -m` nor by any process that it starts: a cloned repository may hold anything."""
    names = (
        "typer",
        "yaml",
        "socket",
        "selectors",
        "torch",
        "hydra",
        "numpy",
        "accelerate",
        "tempfile",
        "json",
        "signal",
    )
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"open({str(executed)!r}, 'a').write({name!r})\nraise SystemExit(9)\n")
    command = [sys.executable, "-m", "speculators", *words]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=200)
    assert not executed.exists(), executed.read_text()
    assert done.returncode == 0, done.stderr
