"""An algorithm and a proposal method from an installed package, with nothing here edited, pass every contract test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_an_installed_package_adds_an_algorithm_and_a_proposal(tmp_path: Path) -> None:
    """The package of `outside/`, installed, is found by its entry points: composed, checked, trained, and tested."""
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(HERE / "outside", source)
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*install, "--target", str(site), str(source)], check=True, timeout=200)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tests = run("pytest", str(HERE), "-q", "-p", "no:cacheprovider", "-m", "", "-k", "(sketch or shy) and not outside")
    assert "passed" in tests and "skipped" not in tests
    assert "sketch" in run("speculators", "check", "algorithm=sketch", "proposal=shy")
    folder = tmp_path / "run"
    short = ["trainer.max_steps=2", "data.max_conversations=60", "evaluation.num_prompts=2", "tracker=none"]
    short += ["evaluation.max_new_tokens=8", f"hydra.run.dir={folder}"]
    run("speculators", "train", "algorithm=sketch", "proposal=shy", *short)
    assert (folder / "checkpoint" / "model.safetensors").is_file()
