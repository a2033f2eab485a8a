"""What a machine lacks for a run is said before weights are read: exit code 2, no folder; a plan is made all the same."""

import subprocess
import sys
from collections import namedtuple
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch

from speculators.cli.hydra_app import Check
from speculators.cli.main import app
from speculators.composition.compose import compose, composed, pinned
from speculators.execution.machine import emulated, proposal_can_be_decoded
from speculators.execution.rules import token_ids_exist
from speculators.models.eagle3.settings import Eagle3Settings
from speculators.proposals import ChainProposalConfig
from speculators.settings.launch import TrackerSettings
from speculators.verifier.facts import VerifierFacts

TRACKERS = [name for name in get_args(TrackerSettings.model_fields["name"].annotation) if name != "none"]
MISSING = next((name for name in TRACKERS if find_spec(name) is None), None)
# What is typed, the same as a right that `run` is given, and what the message must hold.
WRONG = {
    "tracker": (f"tracker={MISSING}", f"tracker.name={MISSING}", [f"tracker.name={MISSING}", f"pip install {MISSING}"]),
    "device": ("device=cuda", "device=cuda", ["device=cuda", "this machine has", "device=auto"]),
    "states": (
        "verifier_states=cached cache.limit_gb=0.001",
        "cache.limit_gb=0.001",
        ["verifier_states.source=cached", "the states take", "can hold 1.0 MB", "cache.limit_gb"],
    ),
    "vllm": (
        "verifier_states=served verifier_states.python=/no/python",
        "verifier_states.python=/no/python",
        ["verifier_states.python=/no/python: there is no such program"],
    ),
}


@pytest.mark.skipif(MISSING is None, reason="every tracker is installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("command", "case"),
    [
        ("train", "tracker"),
        ("train", "device"),
        ("train", "states"),
        ("train", "vllm"),
        ("dry_run", "device"),
        ("check", "device"),
        ("run", "tracker"),
    ],
)
def test_what_is_lacking_is_said(command: str, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By every command that starts or plans a run; a plan is printed all the same, for it may be for another machine."""
    typed, right, parts = WRONG[case]
    overrides = [
        *typed.split(),
        "data.max_conversations=200",
        "evaluation.num_prompts=0",
        f"hydra.run.dir={tmp_path}/run",
    ]
    with pytest.raises(SystemExit) as stopped:
        if command in ("train", "dry_run"):
            with composed([*overrides, f"dry_run={command == 'dry_run'}".lower()]) as config:
                Check().on_run_start(config)
        elif command == "check":
            app(["check", *overrides])
        else:
            pinned(overrides[:-1], tmp_path / "pinned")
            app(["run", str(tmp_path / "pinned"), right])
    said = capsys.readouterr()
    assert stopped.value.code == (0 if command == "dry_run" else 2) and not (tmp_path / "run").exists()
    assert all(part in said.err for part in parts), said.err
    assert ("set by " in said.err) == (command != "run")
    assert ("speculators_model_type" in said.out) == (command == "dry_run")


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The least that a run writes is a checkpoint and the draft: (8 + 4) bytes of 2,098,176 numbers."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("speculators.execution.machine.disk_usage", lambda folder: usage(10**9, 10**9 - 10**6, 10**6))
    with composed(["hydra.run.dir=runs/mine"]) as config, pytest.raises(SystemExit):
        Check().on_run_start(config)
    said = capsys.readouterr().err
    assert "hydra.run.dir=runs/mine: a checkpoint and the published draft take 25.2 MB" in said
    assert "1.0 MB free" in said


def test_a_token_beyond_the_vocabulary() -> None:
    """Of any algorithm that names one, by the end of the setting's name."""

    class Masked(Eagle3Settings):
        mask_token_id: int | None

    run = compose()
    facts = VerifierFacts.read(run.verifier.name_or_path)
    for token, problems in ((None, 0), (4095, 0), (4096, 1)):
        algorithm = Masked(**run.algorithm.model_dump(), mask_token_id=token)
        found = list(token_ids_exist(run.model_copy(update={"algorithm": algorithm}), facts))
        assert [(p.key, p.value) for p in found] == [("algorithm.mask_token_id", 4096)] * problems


def test_a_proposal_without_a_decoding_rule() -> None:
    """Such as one of another package that registers settings alone: said before the training, not after it."""

    class Undecided(ChainProposalConfig):
        proposal_type: Literal["undecided"] = "undecided"

    run = compose()
    assert list(proposal_can_be_decoded(run)) == []
    (message,) = proposal_can_be_decoded(run.model_copy(update={"proposal": Undecided()}))
    assert message.startswith("proposal.proposal_type=undecided: it has settings and no decoding rule")
    assert "choose one of dynamic_tree, greedy" in message


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["precision=bf16"], "precision=bf16: "),
        (["verifier.dtype=bfloat16"], "verifier.dtype=bfloat16: "),
        (["precision=fp32", "verifier.dtype=float32"], ""),
    ],
)
def test_bfloat16_that_the_cpu_emulates(overrides: list[str], keys: str) -> None:
    """Is warned about where oneDNN has no bfloat16 products for the CPU."""
    run = compose(["device=cpu", *overrides])
    found = emulated(run, VerifierFacts.read(run.verifier.name_or_path))
    if torch.ops.mkldnn._is_mkldnn_bf16_supported() or not keys:
        assert found is None
    else:
        assert found is not None and found.startswith(keys) and "Set precision=fp32 verifier.dtype=float32" in found


def test_check_reads_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a run would."""
    with pytest.raises(SystemExit) as stopped:
        app(["check", "data=jsonl", f"data.path={tmp_path}/none.jsonl"])
    assert stopped.value.code == 2 and "data.path: no file matches" in capsys.readouterr().err


@pytest.mark.skipif(MISSING is None, reason="every tracker is installed")
@pytest.mark.slow
def test_a_sweep_stops_before_its_first_trial(tmp_path: Path) -> None:
    """Both trials lack the same."""
    command = [sys.executable, "-m", "speculators", "train", "-m", "seed=1,2", f"tracker={MISSING}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "trial 0" in done.stderr and f"pip install {MISSING}" in done.stderr
    assert list(tmp_path.iterdir()) == []
