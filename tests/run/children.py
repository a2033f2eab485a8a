"""Runs in processes of their own, which a server that has imported everything starts within milliseconds."""

import os
import resource
import sys
from importlib.resources import files
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from speculators.cli.launch import launch
from speculators.composition.compose import pinned
from speculators.utils.messages import RunFailed, refused

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["speculators.execution.run"])
WEIGHTS = "checkpoint/model.safetensors"
# Six steps, each of which is saved.
TINY = [
    "algorithm=eagle", "data=jsonl", "data.max_length=128", "tracker=none", "trainer.batch_size=1", "trainer.max_steps=6",
    "trainer.save_every=1", "trainer.log_every=1", "evaluation.num_prompts=0", "launch.num_threads=1",
]  # fmt: skip


def made(folder: Path, *overrides: str) -> Path:
    """The folder of a run that has not started, with data of its own."""
    folder.mkdir(parents=True)
    rows = Path(str(files("speculators.assets"))).joinpath("chat.jsonl").read_text().splitlines(True)
    (folder / "data.jsonl").write_text("".join(rows[:60]))
    pinned([*TINY, f"data.path={folder / 'data.jsonl'}", f"cache.dir={folder / 'cache'}", *overrides], folder)
    return folder


def work(folder: Path, said: Path, open_files: int | None) -> None:
    """Runs a folder as the commands do; what it prints goes to a file."""
    with said.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        launch(folder)
    except RunFailed:
        sys.exit(1)
    except OSError as error:
        refused(error)


def begin(folder: Path, said: Path, open_files: int | None = None) -> ForkServerProcess:
    """A process that runs a folder."""
    process = CONTEXT.Process(target=work, args=(folder, said, open_files))
    process.start()
    return process


def ended(folder: Path, said: Path, open_files: int | None = None) -> int | None:
    """The exit code of a run of a folder."""
    process = begin(folder, said, open_files)
    process.join(120)
    return process.exitcode
