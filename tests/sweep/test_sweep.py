"""Sweeps end to end: what is shared, what is kept, what a failure leaves alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from speculators.cli.launch import launch, work
from speculators.composition.compose import compose
from speculators.runfolder.folder import RunFolder
from speculators.runfolder.keys import result_key, weights_key
from speculators.runfolder.run_yaml import read_pin, write_pin
from speculators.sweep.trial import start
from speculators.sweep.worker import take_device
from speculators.utils.messages import RunFailed

from .conftest import SHORT, Sweep, command, rows, verifier

SIX = ["algorithm=medusa,eagle", "proposal.speculative_tokens=1,2,3"]
FOUR = ["algorithm=medusa,eagle", "proposal.speculative_tokens=1,3"]
# What is not measured with a clock.
MEASURED = (
    "trial",
    "status",
    "objective",
    "acceptance_length",
    "checkpoint",
    "algorithm",
    "proposal.speculative_tokens",
)


def test_keys_name_what_decides() -> None:
    """Each group is known to decide the weights, only the result, or nothing."""
    base = compose([])
    decides_nothing = ["device=cpu", "tracker=none", "launch=inline", "trainer.log_every=3", "trainer.keep_last=7"]
    decides_the_result = ["proposal.speculative_tokens=2", "evaluation.num_prompts=3", "export.dtype=float16"]
    decides_weights = ["seed=5", "precision=bf16", "algorithm=medusa", "algorithm.ttt_steps=2", "optimizer.lr=0.001"]
    decides_weights += ["data.max_length=128", "verifier.dtype=float32", "schedule=linear", "trainer.epochs=1"]
    for override in decides_nothing:
        assert result_key(compose([override])) == result_key(base), override
    for override in decides_the_result:
        assert result_key(compose([override])) != result_key(base), override
        assert weights_key(compose([override])) == weights_key(base), override
    for override in decides_weights:
        assert weights_key(compose([override])) != weights_key(base), override
        assert result_key(compose([override])) != result_key(base), override


def test_how_is_decoded_decides_the_weights_where_decoding_chooses_the_step() -> None:
    """With trainer.keep_best=decoded; what is only measured afterwards decides the result alone, as ever."""
    decoded = ["trainer.keep_best=decoded", "trainer.eval_every=5"]
    key = weights_key(compose(decoded))
    assert weights_key(compose([*decoded, "proposal.speculative_tokens=2"])) != key
    assert weights_key(compose([*decoded, "evaluation.max_new_tokens=7"])) != key
    assert weights_key(compose([*decoded, "evaluation.num_prompts=7"])) == key


def test_a_changed_file_of_data_is_another_run(tmp_path: Path) -> None:
    """The same path with other conversations trains other weights."""
    file = tmp_path / "data.jsonl"
    file.write_text("one")
    run = compose(["data=jsonl", f"data.path={file}"])
    before = weights_key(run)
    file.write_text("two")
    assert weights_key(run) != before


@pytest.mark.slow
def test_what_is_typed_replaces_what_a_search_sweeps(sweep: Sweep, tmp_path: Path) -> None:
    """`search=` with one of its own keys: the typed value alone, and the rest of the search."""
    done = sweep("search=speculative_tokens", "proposal.speculative_tokens=2", "algorithm=medusa")
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path)
    assert read_pin(tmp_path / "sweep" / row["trial"]).proposal.model_dump()["speculative_tokens"] == 2


@pytest.mark.slow
def test_trials_share_their_training_and_are_not_done_twice(sweep: Sweep, tmp_path: Path) -> None:
    """Four trials train two drafts; their rows are those of single runs; the same command again finds all done."""
    done = sweep(*FOUR)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "sweep"
    assert len(list((folder / "trainings").iterdir())) == 2
    assert len(list(folder.glob("trainings/*/metrics.jsonl"))) == 2
    table = rows(tmp_path)
    assert [row["status"] for row in table] == ["done"] * 4
    # So short a training leaves trials that tie.
    highest = max(float(row["objective"]) for row in table)
    best = {(tmp_path / row["checkpoint"]).resolve() for row in table if float(row["objective"]) == highest}
    assert (folder / "best").resolve() in best
    assert (folder / "best" / "model.safetensors").is_file() and "vllm serve" in done.stdout

    for chosen in (("eagle", "1"), ("medusa", "3")):
        (row,) = [row for row in table if (row["algorithm"], row["proposal.speculative_tokens"]) == chosen]
        overrides = [f"algorithm={chosen[0]}", f"proposal.speculative_tokens={chosen[1]}"]
        single = tmp_path / "single" / row["trial"]
        write_pin(compose([*SHORT[:-1], *overrides]), single)
        launch(single)
        result = json.loads((single / "result.json").read_text())
        assert float(row["acceptance_length"]) == result["acceptance_length"]
        trial = json.loads((folder / row["trial"] / "result.json").read_text())
        assert trial["acceptance_per_position"] == result["acceptance_per_position"]
        weights = [f / "checkpoint" / "model.safetensors" for f in (single, folder / row["trial"])]
        assert weights[0].read_bytes() == weights[1].read_bytes()

    ended = {marker: marker.stat().st_mtime_ns for marker in folder.glob("*/DONE")}
    again = sweep(*reversed(FOUR))
    assert again.returncode == 0, again.stderr
    assert {marker: marker.stat().st_mtime_ns for marker in folder.glob("*/DONE")} == ended and len(ended) == 4
    assert again.stdout.count("is already done") == 4


@pytest.mark.long
def test_a_trial_that_fails_changes_no_other(sweep: Sweep, tmp_path: Path) -> None:
    """Its traceback is in its folder, the exit code is 1, the others are done; mended, it is tried again."""
    whole, empty = verifier(tmp_path / "whole", weights=True), verifier(tmp_path / "empty", weights=False)
    trials = ["verifier=hf", f"verifier.name_or_path={whole},{empty}", "algorithm=medusa"]
    done = sweep(*trials)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    table = {row["verifier.name_or_path"]: row for row in rows(tmp_path)}
    assert table[str(whole)]["status"] == "done" and float(table[str(whole)]["objective"]) >= 1
    failed = table[str(empty)]
    assert failed["status"] == "failed" and str(empty) in failed["error"]
    assert "Traceback" in RunFolder(tmp_path / "sweep" / failed["trial"]).failed.read_text()

    shutil.copyfile(whole / "model.safetensors", empty / "model.safetensors")
    assert sweep(*trials).returncode == 0
    assert {row["status"] for row in rows(tmp_path)} >= {"done"}

    others = [str(verifier(tmp_path / name, weights=False)) for name in ("one", "two")]
    stopped = sweep("verifier=hf", f"verifier.name_or_path={','.join(others)}", "launch.on_failure=stop")
    assert stopped.returncode == 1
    assert sum(row["verifier.name_or_path"] in others for row in rows(tmp_path)) == 1


@pytest.mark.slow
def test_a_trial_that_hangs_or_is_killed_fails_with_the_reason(tmp_path: Path) -> None:
    """Past its timeout it is stopped; killed from outside, the signal is named."""
    run = compose(SHORT[:-1])
    hanging, killed = tmp_path / "hanging", tmp_path / "killed"
    write_pin(run, hanging)
    # It waits for a training that never ends.
    with FileLock(hanging / "training.lock"), pytest.raises(RunFailed, match="launch.timeout=15"):
        start(hanging, 15, own_device=False, work=work)
    assert "launch.timeout" in RunFolder(hanging).failed.read_text()

    def kill() -> None:
        while not (found := [c for c in psutil.Process().children(recursive=True) if holds(c, killed)]):
            time.sleep(0.2)
        for child in found:
            child.kill()

    write_pin(run, killed)
    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(RunFailed, match="signal 9"):
        start(killed, 100, own_device=False, work=work)
    assert "signal 9" in RunFolder(killed).failed.read_text()


def holds(process: psutil.Process, folder: Path) -> bool:
    """Whether a process writes into a folder."""
    try:
        return any(Path(file.path).is_relative_to(folder) for file in process.open_files())
    except psutil.Error:
        return False


@pytest.mark.long
def test_a_sweep_killed_again_and_again_ends_as_if_undisturbed(sweep: Sweep, tmp_path: Path) -> None:
    """SIGKILL at six moments; started again each time, no finished trial is redone and the table is the same."""
    undisturbed = sweep(*SIX, "hydra.sweep.dir=calm/sweep")
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected = [{k: row[k] for k in MEASURED if k != "checkpoint"} for row in rows(tmp_path / "calm")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished: dict[Path, int] = {}
    moments = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(
            command(*SIX), cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # From starting up to deep inside a trial.
        time.sleep(moments.uniform(3, 12))
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = {marker: marker.stat().st_mtime_ns for marker in tmp_path.glob("sweep/*/DONE")}
        assert finished.items() <= now.items()
        finished = now
    assert sweep(*SIX).returncode == 0
    assert finished.items() <= {m: m.stat().st_mtime_ns for m in tmp_path.glob("sweep/*/DONE")}.items()
    assert [{k: row[k] for k in MEASURED if k != "checkpoint"} for row in rows(tmp_path)] == expected


@pytest.mark.long
def test_trials_side_by_side(sweep: Sweep, tmp_path: Path) -> None:
    """Another launcher runs several trials at once, and their rows are in the table."""
    done = sweep("algorithm=medusa", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["status"] for row in rows(tmp_path)] == ["done", "done"]


@pytest.mark.long
def test_preempted_jobs_save_and_go_on_when_they_are_requeued(tmp_path: Path) -> None:
    """submitit's jobs get the signal that it has Slurm send before their time ends; its local executor requeues them."""
    long = ["trainer.max_steps=25", "trainer.epochs=20", "trainer.batch_size=1", "trainer.log_every=1"]
    jobs = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=9"]
    process = subprocess.Popen(
        command("algorithm=medusa", "seed=0,1", *long, *jobs),
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while len([*tmp_path.glob("sweep/trainings/*/metrics.jsonl")]) < 2 and process.poll() is None:
        time.sleep(0.1)
    for child in psutil.Process(process.pid).children(recursive=True):
        if "submitit.core._submit" in child.cmdline():
            child.send_signal(signal.SIGUSR2)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert [row["status"] for row in rows(tmp_path)] == ["done", "done"]
    logs = [path.read_text() for path in tmp_path.glob("sweep/*/train.log")]
    assert len(logs) == 2 and all("the state is saved" in log and "resuming after step" in log for log in logs), logs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*SQLAlchemy 2.0.*", "ignore:.*is experimental")
def test_an_optuna_study_goes_on(sweep: Sweep, tmp_path: Path) -> None:
    """A trial that was cut off is run first, what ended is not run again, a failed one does not count."""
    import optuna

    folder = tmp_path / "sweep"
    folder.mkdir()
    storage = f"sqlite:///{folder / 'study.db'}"
    study = optuna.create_study(study_name="speculators", storage=storage, direction="maximize")
    study.enqueue_trial({"optimizer.lr": 0.004})
    study.ask({"optimizer.lr": optuna.distributions.UniformDistribution(0.001, 0.01)})

    box = ["algorithm=medusa", "hydra/sweeper=optuna", "optimizer.lr=interval(0.001,0.01)"]
    done = sweep(*box, "hydra.sweeper.n_trials=2")
    assert done.returncode == 0, done.stdout + done.stderr
    table = rows(tmp_path)
    assert [row["status"] for row in table] == ["done", "done"]
    assert "0.004" in [row["optimizer.lr"] for row in table]
    states = [trial.state.name for trial in optuna.load_study("speculators", storage).trials]
    assert states == ["FAIL", "COMPLETE", "COMPLETE"]

    ended = {marker: marker.stat().st_mtime_ns for marker in folder.glob("*/DONE")}
    empty = verifier(tmp_path / "empty", weights=False)
    failing = sweep(*box, "hydra.sweeper.n_trials=3", "verifier=hf", f"verifier.name_or_path={empty}")
    assert failing.returncode == 1 and "Traceback" not in failing.stderr, failing.stderr
    assert [row["status"] for row in rows(tmp_path)].count("failed") == 1
    assert {marker: marker.stat().st_mtime_ns for marker in folder.glob("*/DONE")} == ended and len(ended) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can become another user")
def test_users_of_one_machine_do_not_lock_each_other_out() -> None:
    """Each has lock files of its own, also where the environment names the same user, or none is known by the number."""
    code = (
        "import os, sys; from speculators.sweep.worker import lock_folder, take_device\n"
        "os.setuid(int(sys.argv[1]))\n"
        "assert take_device(['0'], lock_folder()) is not None"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        for user in ("0", "12345", "54321"):
            environment = {**os.environ, "TMPDIR": folder, "USER": "root", "LOGNAME": "root"}
            done = subprocess.run([sys.executable, "-c", code, user], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def test_trials_take_turns_with_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three trials sees one of two GPUs; the third waits until one is free."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    seen = []
    locks = []
    for _ in range(2):
        locks.append(take_device(["4", "7"], tmp_path))
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["4", "7"]
    third = threading.Thread(target=take_device, args=(["4", "7"], tmp_path), daemon=True)
    third.start()
    third.join(0.5)
    assert third.is_alive()
    locks[1].release()
    third.join(5)
    assert not third.is_alive() and os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    assert take_device([], tmp_path) is None
