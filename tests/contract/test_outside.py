"""Algorithms and proposal methods from an installed package, with nothing here edited, pass every contract test."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from speculators.settings.algorithm import AlgorithmSettings

HERE = Path(__file__).parent
ENTRY_POINTS = tomllib.loads((HERE / "outside" / "pyproject.toml").read_text())["project"]["entry-points"]
# Names of what the package adds, by kind.
PARTS = {kind: list(ENTRY_POINTS[f"speculators.{kind}"]) for kind in ("models", "proposals")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a module of Python beside the installed package of `outside/`, and gives its output."""
    folder = tmp_path_factory.mktemp("outside")
    source, site = folder / "source", folder / "site"
    shutil.copytree(HERE / "outside", source)
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*install, "--target", str(site), str(source)], check=True, timeout=200)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, cwd=folder, env=environment, timeout=1800
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.long
def test_they_pass_every_contract_test(run: Callable[..., str]) -> None:
    """What the package adds is found by its entry point, and tested as the package's own are."""
    names = [*PARTS["models"], *PARTS["proposals"]]
    # Its proposal methods draft with its algorithms and with one of the package's own, not with each of them.
    others = [name for name in AlgorithmSettings.names() if name not in ("medusa", *names)]
    chosen = f"({' or '.join(names)}) and not ({' or '.join(['outside', *others])})"
    tests = run("pytest", str(HERE), "-v", "-p", "no:cacheprovider", "-m", "", "-k", chosen)
    passed = [line for line in tests.splitlines() if "PASSED" in line]
    assert all(any(name in line for line in passed) for name in names) and "SKIPPED" not in tests


@pytest.mark.slow
def test_a_dry_run_knows_them(run: Callable[..., str]) -> None:
    """And says that no engine serves the algorithm."""
    model, proposal = (next(iter(PARTS[kind])) for kind in ("models", "proposals"))
    output = run("speculators", "check", f"algorithm={model}", f"proposal={proposal}")
    assert model in output


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS["models"])
def test_it_is_checked_and_trained(run: Callable[..., str], tmp_path: Path, name: str) -> None:
    """An algorithm of the package, with a proposal method of the package."""
    chosen = [f"algorithm={name}", f"proposal={next(iter(PARTS['proposals']))}"]
    short = ["trainer.max_steps=2", "data.max_conversations=60", "evaluation.num_prompts=2", "tracker=none"]
    short += ["evaluation.max_new_tokens=8", f"hydra.run.dir={tmp_path / 'run'}"]
    run("speculators", "train", *chosen, *short)
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").is_file()
