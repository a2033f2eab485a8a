"""Whatever happened to the files of a run or a sweep, there is a page and a table, and the broken file is named."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner
from vllm_verdicts import read_golden, write_folder

from speculators.cli.main import app
from speculators.composition.compose import compose, pinned
from speculators.report.page import PAGE, write_page
from speculators.report.rows import Row, ranked
from speculators.report.runs import read, runs
from speculators.runfolder.folder import MOST_METRICS, Done, RunFolder
from speculators.runfolder.run_yaml import Origin
from speculators.sweep.summary import show
from speculators.sweep.table import table
from speculators.sweep.trial import run_trial
from speculators.utils.messages import RunFailed
from speculators.utils.terminal import console

RESULT = {
    "objective": 1.5, "acceptance_length": 1.5, "acceptance_per_position": [0.4, 0.1], "speculative_tokens": 2,
    "num_prompts": 2, "max_new_tokens": 8, "drafts": 5, "drafted": 10, "accepted": 5, "generated": 15,
    "matches_plain_decoding": True, "ties": 0, "lossy": None, "tokens_per_second": 20.0, "plain_tokens_per_second": 10.0,
}  # fmt: skip
READING = {"step": 1, "kind": "train", "loss": 1.0, "accuracy": [0.5, 0.2], "acceptance": 1.2, "seconds": 3.0}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder as a sweep leaves it."""
    folder = tmp_path_factory.mktemp("good") / "run"
    pinned(["algorithm=medusa"], folder)
    own = RunFolder(folder)
    own.hydra.mkdir()
    (own.hydra / "overrides.yaml").write_text("- optimizer.lr=0.25\n")
    (own.hydra / "hydra.yaml").write_text(
        "hydra:\n  job:\n    name: train\n  runtime:\n    choices:\n      algorithm: medusa\n"
    )
    own.mark_done(Done(3.0, 0.5, 1.5))
    own.result.write_text(json.dumps(RESULT))
    own.metrics.write_text("".join(json.dumps(READING | {"step": n}) + "\n" for n in range(1, 9)))
    write_folder(read_golden()["bases"], {"base": "medusa"}, own.checkpoint)
    return folder


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 5])


def in_the_way(file: Path) -> None:
    """A folder where the file should be: also the superuser cannot read that."""
    file.unlink()
    file.mkdir()


KINDS: dict[str, Callable[[Path], object]] = {
    "truncated": truncated,
    "empty": lambda file: file.write_bytes(b""),
    "binary": lambda file: file.write_bytes(bytes(range(256)) * 9 + b"\n"),
    "a number": lambda file: file.write_text("7\n"),
    "a list": lambda file: file.write_text("[1, {}]\n"),
    "texts for numbers": lambda file: file.write_text(
        json.dumps(dict.fromkeys([*RESULT, *READING, "seconds", "memory_gb", "run", "hydra"], "<b>x")) + "\n"
    ),
    "deep": lambda file: file.write_text("[" * 40_000 + "]" * 40_000 + "\n"),
    "digits": lambda file: file.write_text('{"seconds": ' + "9" * 6000 + ', "memory_gb": 1}\n'),
    "missing": lambda file: file.unlink(),
    "a folder": in_the_way,
}
FILES = [
    "run.yaml", "DONE", "result.json", "metrics.jsonl", ".hydra/overrides.yaml", ".hydra/hydra.yaml",
    "checkpoint/config.json", "checkpoint/model.safetensors", "FAILED",
]  # fmt: skip
# A run may lack these, or be in the middle of writing them; FAILED is shown whatever it holds.
SOUND = {
    ("DONE", "missing"), ("result.json", "missing"), (".hydra/overrides.yaml", "missing"), ("FAILED", "missing"),
    (".hydra/hydra.yaml", "missing"), ("metrics.jsonl", "missing"), ("metrics.jsonl", "empty"),
    ("metrics.jsonl", "truncated"), (".hydra/overrides.yaml", "truncated"),
} | {("FAILED", kind) for kind in KINDS if kind != "a folder"}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_each_file_broken_in_each_way(name: str, good: Path, tmp_path: Path) -> None:
    """One sweep with a trial for each way, and a sound one, which is the best; the page has all of them."""
    sweep = tmp_path / "sweep"
    for kind, damage in KINDS.items():
        trial = Path(shutil.copytree(good, sweep / kind))
        (trial / "FAILED").write_text("Traceback\nValueError: <b>why") if name == "FAILED" else None
        damage(trial / name)
    shutil.copytree(good, sweep / "whole")
    (sweep / "whole" / ".hydra" / "overrides.yaml").write_text("- optimizer.lr=0.5\n- algorithm=medusa\n")
    rows = {row.trial.name: row for row in ranked(read(sweep))}
    assert rows.keys() == {*KINDS, "whole"}
    assert rows["whole"].trial.status == "done" and not rows["whole"].trial.unreadable
    for kind in KINDS:
        named = [
            message for message in rows[kind].trial.unreadable if str(sweep / kind / name.split("/")[0]) in message
        ]
        assert bool(named) == ((name, kind) not in SOUND), (kind, rows[kind].trial)
        assert len(named) <= 1
    page = write_page(list(rows.values()), sweep / PAGE).read_text(encoding="utf-8").split("<script>")[0]
    assert "<b>x" not in page and all(f">{kind}<" in page for kind in KINDS)
    assert all(message[:60].replace("'", "&#39;") in page for row in rows.values() for message in row.trial.unreadable)
    shown = console()
    with shown.capture() as capture:
        shown.print(table([row.trial for row in rows.values()]))
    assert "whole" in capture.get()


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_of_the_run_is_not_read(name: str, good: Path, tmp_path: Path) -> None:
    """A pipe and a device have no end, and a link may lead to what is private."""
    private = tmp_path / "private"
    private.write_text("- private words\n")
    sweep = tmp_path / "sweep"
    for kind, target in (("pipe", None), ("device", Path("/dev/zero")), ("link", private), ("loop", Path(name).name)):
        file = Path(shutil.copytree(good, sweep / kind)) / name
        file.unlink(missing_ok=True)
        file.symlink_to(target) if target else os.mkfifo(file)
    whole = Path(shutil.copytree(good, sweep / "whole"))
    (whole / ".hydra" / "overrides.yaml").write_text("- algorithm=medusa\n")
    signal.alarm(60)  # ends a test that waits for ever
    try:
        rows = ranked(read(sweep))
        page = write_page(rows, sweep / PAGE).read_text(encoding="utf-8")
    finally:
        signal.alarm(0)
    # A link to itself is as good as a missing file.
    assert {row.trial.name for row in rows if not row.trial.unreadable} - {"loop"} == {"whole"} and len(rows) == 5
    assert "private words" not in page


def test_readings_without_end_are_not_read(good: Path, tmp_path: Path) -> None:
    """A file of 10^12 bytes, which takes no room on the disk."""
    folder = Path(shutil.copytree(good, tmp_path / "run"))
    os.truncate(folder / "metrics.jsonl", 10**12)
    (row,) = ranked(read(folder))
    assert row.trial.unreadable == [
        f"{folder / 'metrics.jsonl'}: cannot be read: it is larger than {MOST_METRICS} bytes"
    ]


def test_a_sweeps_end_shows_the_sound_trials(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """results.csv, table, page and the best draft, in a folder whose name is markup; the broken trial is the last."""
    sweep = tmp_path / "[/x] :bug: [red]"
    for name in ("a", "b"):
        shutil.copytree(good, sweep / name)
    (sweep / "a" / "DONE").write_text('{"seconds": 1.0, "mem')
    show(sweep)
    shown = capsys.readouterr().out
    assert (
        "[/x] :bug: [red]/results.csv" in shown.replace("\n", "") and "unreadable: " in shown and "vllm serve" in shown
    )
    assert (sweep / PAGE).is_file() and (sweep / "best").resolve() == (sweep / "b" / "checkpoint").resolve()
    table = (sweep / "results.csv").read_text()
    assert table.index("\nb,") < table.index("\na,") and "DONE" in table


def test_the_command_says_what_cannot_be_read(good: Path, tmp_path: Path) -> None:
    """Exit code 0 as long as a run can be read, else 1; there is a page in any case."""
    for name in ("a", "b"):
        shutil.copytree(good, tmp_path / "sweep" / name)
    for name, code in (("a", 0), ("b", 1)):
        (tmp_path / "sweep" / name / "run.yaml").write_text("run: [\x07")
        done = CliRunner().invoke(app, ["report", str(tmp_path / "sweep")])
        assert done.exit_code == code and (tmp_path / "sweep" / PAGE).is_file(), done.output
        assert f"unreadable: {tmp_path / 'sweep' / name / 'run.yaml'}: " in done.output and "\x07" not in done.output
    lost = tmp_path / "sweep" / "a"
    (lost / "run.yaml").unlink()
    assert runs(lost) == [lost]  # not the copy of run.yaml in its checkpoint
    done = CliRunner().invoke(app, ["report", str(lost)])
    assert done.exit_code == 1 and (lost / PAGE).is_file() and str(lost / "run.yaml") in done.output


def test_a_page_that_cannot_be_written(good: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(good, tmp_path / "run"))
    (folder / PAGE).mkdir()
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert (
        done.exit_code == 2 and "name another file with --output" in done.output and str(folder / PAGE) in done.output
    )


@pytest.mark.parametrize("text", ["", "{", '{"seconds": 1.0, "memory_gb": 0.5, "objective": ', "[]", "\0\xff"])
def test_a_broken_DONE_does_not_stop_a_sweep(text: str, tmp_path: Path) -> None:
    """The trial is run again, which writes the marker anew."""
    run = compose(["algorithm=medusa", "launch=inline"])
    folder = tmp_path / "sweep" / "0"
    folder.mkdir(parents=True)
    (folder / "DONE").write_text(text, encoding="latin-1")

    def again(path: Path) -> float:
        RunFolder(path).mark_done(Done(2.0, 0.5, 1.25))
        return 1.25

    def work(path: Path, own_device: bool) -> None:
        raise RunFailed("launch=inline starts no process")

    assert run_trial(run, folder, Origin([], [], {}), 0, again, work) == 1.25
    assert (
        run_trial(run, folder, Origin([], [], {}), 0, launch=lambda path: 1 / 0, work=work) == 1.25
    )  # not a third time


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A folder, and a function that makes it read-only: a file system of its own where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True).returncode == 0

    def lock() -> Path:
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        elif os.geteuid() == 0:
            pytest.skip("the superuser may write everywhere, and cannot mount a file system here")
        else:
            for path in (folder, *folder.rglob("*")):
                path.chmod(path.stat().st_mode & ~0o222)
        return folder

    yield lock
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
    else:
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | 0o700)


def test_a_run_that_has_not_ended_in_a_folder_that_is_only_readable(
    good: Path, tmp_path: Path, read_only: Callable[[], Path]
) -> None:
    """Its lock cannot be opened; it counts as interrupted."""
    copy = Path(shutil.copytree(good, tmp_path / "disk" / "run"))
    (copy / "DONE").unlink()
    (copy / "run.lock").touch()
    read_only()
    done = CliRunner().invoke(app, ["report", str(copy), "--output", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert "interrupted" in (tmp_path / "page.html").read_text(encoding="utf-8")
    done = CliRunner().invoke(app, ["report", str(copy)])
    assert done.exit_code == 2 and "name another file with --output" in done.output


def test_measurements_that_are_none(good: Path, tmp_path: Path) -> None:
    """NaN, infinity and rates of zero would draw nonsense or divide by zero."""
    for number, (key, value) in enumerate(
        [
            ("objective", float("nan")),
            ("tokens_per_second", 0),
            ("plain_tokens_per_second", 0.0),
            ("acceptance_length", "x"),
        ]
    ):
        copy = Path(shutil.copytree(good, tmp_path / str(number)))
        (copy / "result.json").write_text(json.dumps(RESULT | {key: value}))
        (row,) = ranked(read(copy))
        assert isinstance(row, Row) and row.trial.status == "unreadable" and key in row.trial.error
