"""Runs that are cut off at any moment and started again have the weights and metrics of one that is not."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.run.children import WEIGHTS, begin, ended, made

CUTS = int(os.environ.get("SPECULATORS_CUTS", "15"))
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
    """By each signal that ends a process: at random moments, while a checkpoint is written, and while it is published."""
    draw, counts = random.Random(int(os.environ.get("SPECULATORS_SEED", "0"))), dict.fromkeys(SIGNALS, 0)
    whole: dict[str, tuple[Path, float]] = {}
    for kind, overrides in KINDS.items():
        folder, start = made(tmp_path / "whole" / kind, *overrides), time.monotonic()
        assert ended(folder, tmp_path / "said") == 0, (tmp_path / "said").read_text()
        whole[kind] = folder, time.monotonic() - start
    for cut in range(CUTS):
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
