"""Runs that are cut off at any moment and started again have the weights and metrics of one that is not."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.run.children import WEIGHTS, begin, ended, made

# Seven are enough for each signal and each aim.
CUTS = int(os.environ.get("SPECULATORS_CUTS", "7"))
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
KINDS = {
    "plain": [],
    "best step": ["trainer.keep_best=true", "trainer.eval_every=2"],
    "accumulation": ["trainer.gradient_accumulation_steps=2"],
    "cached states": ["verifier_states=cached"],
}
# Besides random moments: as soon as a path is there.
AIMS = [None, None, "checkpoints/partial", None, "checkpoint", "checkpoints/step_2", "cache"]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Of a run, without what is measured."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second", "memory_gb")} for line in lines]


@pytest.mark.slow
def test_cut_runs_end_bit_equal(tmp_path: Path) -> None:
    """By each signal that ends a process: at random moments, while a checkpoint is written, and while it is published.

    A run that ended before its signal is no cut, and the cut is tried again.
    """
    draw, counts = random.Random(int(os.environ.get("SPECULATORS_SEED", "0"))), dict.fromkeys(SIGNALS, 0)
    whole: dict[str, tuple[Path, float]] = {}
    for kind, overrides in KINDS.items():
        folder, start = made(tmp_path / "whole" / kind, *overrides), time.monotonic()
        assert ended(folder, tmp_path / "said") == 0, (tmp_path / "said").read_text()
        whole[kind] = folder, time.monotonic() - start
    while (cut := sum(counts.values())) < CUTS:
        number, aim = SIGNALS[cut % len(SIGNALS)], AIMS[cut % len(AIMS)]
        kind = list(KINDS)[cut % len(KINDS)]
        reference, seconds = whole[kind]
        folder, said = made(tmp_path / "cut", *KINDS[kind]), tmp_path / "cut" / "said"
        process = begin(folder, said)
        while aim is not None and process.is_alive() and not (folder / aim).exists():
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.7 * seconds if aim is None else 0.03))
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, number)
            counts[number] += 1
        process.join(60)
        assert ended(folder, said) == 0, (kind, number, aim, said.read_text())
        assert (folder / WEIGHTS).read_bytes() == (reference / WEIGHTS).read_bytes(), (kind, number, aim)
        assert metrics(folder) == metrics(reference), (kind, number, aim)
        assert (folder / "DONE").exists()
        assert not [*folder.glob("*.partial"), *(folder / "checkpoint").glob("*.partial")]
        shutil.rmtree(folder)
    print(f"{CUTS} runs, cut by {', '.join(f'{count} {number.name}' for number, count in counts.items())}")


@pytest.mark.long
def test_two_preempted_nodes_go_on_from_their_last_step(tmp_path: Path) -> None:
    """Two nodes of a run, one of which is told to stop: both save the same step, and the same commands end the run."""
    folder = made(tmp_path / "run", "launch=torchrun", "launch.num_processes=1", "launch.num_nodes=2", "trainer.max_steps=60",
                  "launch.rdzv_endpoint=127.0.0.1:1", "trainer.epochs=20", "trainer.save_every=null", "algorithm=medusa",
                  "device=cpu")  # fmt: skip

    def nodes() -> list[subprocess.Popen[str]]:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        rights = [f"cache.dir={folder / 'cache'}", f"launch.rdzv_endpoint=127.0.0.1:{port}"]
        command = [sys.executable, "-m", "speculators", "run", str(folder), *rights]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        options: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
        return [subprocess.Popen(command, cwd=tmp_path, **options) for _ in range(2)]

    def steps() -> list[int]:
        file = folder / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line)["step"] for line in lines if line.endswith("}")]

    first = nodes()
    while not steps() and all(node.poll() is None for node in first):
        time.sleep(0.05)
    first[0].terminate()
    said = "".join(node.communicate(timeout=100)[0] for node in first)
    (saved,) = [int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").iterdir()]
    assert 1 <= saved < 60 and saved >= max(steps()) and "the state is saved" in said, said
    second = nodes()
    said = "".join(node.communicate(timeout=200)[0] for node in second)
    assert [node.returncode for node in second] == [0, 0] and f"resuming after step {saved} of 60" in said, said
    assert sorted(set(steps())) == list(range(1, 61)) and (folder / WEIGHTS).exists()
