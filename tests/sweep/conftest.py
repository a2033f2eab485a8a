"""Sweeps as a person starts them, of runs that take seconds."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

SHORT = [
    "trainer.max_steps=2",
    "trainer.batch_size=1",
    "data.max_conversations=60",
    "evaluation.num_prompts=2",
    "evaluation.max_new_tokens=8",
    "tracker=none",
    "launch.num_threads=1",
    "hydra.sweep.dir=sweep",
]
Sweep = Callable[..., subprocess.CompletedProcess[str]]


def command(*overrides: str) -> list[str]:
    """A sweep's command line."""
    return [sys.executable, "-m", "speculators", "train", "-m", *SHORT, *overrides]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Starts a sweep whose folder is `sweep` in the test's own, and waits for it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*overrides), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )

    return start


def verifier(folder: Path, weights: bool) -> Path:
    """A copy of the embedded verifier; without its weights all checks before the start pass, and loading it fails."""
    source = Path(str(files("speculators.assets"))) / "tiny"
    shutil.copytree(source, folder, ignore=None if weights else shutil.ignore_patterns("model.safetensors"))
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    """results.csv of the sweep in a test's folder, in the order of the trials' folders."""
    with (folder / "sweep" / "results.csv").open(newline="", encoding="utf-8") as file:
        return sorted(csv.DictReader(file), key=lambda row: row["trial"])
