"""The same against vLLM itself: its states are the verifier's, and a run outlives its server."""

import json
import os
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from speculators.cli.launch import launch
from speculators.composition.compose import compose, pinned
from speculators.data.collate import collate
from speculators.data.served_states import served_states
from speculators.data.template import Document
from speculators.settings.states import ServedStates
from speculators.verifier.loader import VerifierLoader

from .test_answers import documents, prepared

VLLM = os.environ.get("SPECULATORS_VLLM_PYTHON", "")
SERVED = ["verifier_states=served", f"verifier_states.python={VLLM}", "verifier_states.prefetch_steps=1"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM, reason="SPECULATORS_VLLM_PYTHON names no Python of an environment with vLLM"),
]


def test_states_are_the_verifiers() -> None:
    """In float32 within 1e-4 of each layer's largest value, for documents of any length, packed or alone."""
    run, layer_ids = compose([*SERVED, "data.max_length=512"]), [0, 1, 2, 3, 5, 6]
    assert isinstance(run.verifier_states, ServedStates)
    g = torch.Generator().manual_seed(0)
    lengths = (1, 2, 15, 16, 17, 100, 300, 512)
    documents = [Document(torch.randint(3, 4096, (n,), generator=g).tolist(), [True] * n) for n in lengths]
    batch = collate([documents[:6], [documents[6]], [documents[7]]], 1)
    loader = VerifierLoader(run.verifier, torch.device("cpu"))
    with served_states(run.verifier_states, loader, [documents], layer_ids, 512) as states:
        served = states(batch, layer_ids)
    right = loader.whole()(batch, layer_ids)
    assert served.aux_BTA is not None and right.aux_BTA is not None
    there_BT = batch.document_BT >= 0
    pairs = [
        (served.last_BTH, right.last_BTH),
        *zip(served.aux_BTA.chunk(6, -1), right.aux_BTA.chunk(6, -1), strict=True),
    ]
    for found_BTH, right_BTH in pairs:
        found_NH, right_NH = found_BTH[there_BT], right_BTH[there_BT]
        assert (found_NH - right_NH).abs().max() < 1e-4 * right_NH.abs().max()


@pytest.mark.long
def test_a_killed_server_costs_nothing_but_time(tmp_path: Path) -> None:
    """It is started again, and after ten steps the weights are those of a run with the verifier in process."""
    own = ["tracker=none", "trainer.max_steps=10", "trainer.log_every=1", "evaluation.num_prompts=0", "device=cpu"]
    killed: list[int] = []

    def kill() -> None:
        """Once three steps are done."""
        metrics = tmp_path / "served" / "metrics.jsonl"
        while not metrics.exists() or metrics.read_text().count('"kind": "train"') < 3:
            time.sleep(0.01)
        for process in psutil.Process().children():
            if any(word.startswith("vllm.") for word in process.cmdline()):
                process.kill()
                killed.append(process.pid)

    for name, chosen in (("served", SERVED), ("in_process", [])):
        pinned([*own, *chosen], tmp_path / name)
    watching = threading.Thread(target=kill, daemon=True)
    watching.start()
    launch(tmp_path / "served")
    watching.join(1)
    launch(tmp_path / "in_process")
    assert len(killed) == 1 and not psutil.pid_exists(killed[0])
    served, right = (
        load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("served", "in_process")
    )
    assert served.keys() == right.keys()
    assert max((served[name] - right[name]).abs().max().item() for name in right) < 1e-4


@pytest.mark.long
def test_answers_are_the_verifiers(tmp_path: Path) -> None:
    """To 200 prompts, token for token those of the verifier in process."""
    prompts = "data.path=pkg://speculators.assets/prompts.jsonl"
    own = ["data=jsonl", prompts, "data.regenerate=true", "data.regenerate_max_new_tokens=48"]
    served, right = (
        documents(prepared(compose([*own, *chosen]), tmp_path / name))
        for name, chosen in (
            ("served", ["verifier_answers=served", f"verifier_answers.python={VLLM}"]),
            ("in_process", []),
        )
    )
    assert served == right and len(right) == 200


@pytest.mark.long
def test_sampled_answers_need_one_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """To more prompts than it reads in one step, each with a seed."""
    caplog.set_level("INFO")
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"Write {n} words. " * 30} for n in range(40)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    own = ["data=jsonl", f"data.path={file}", "data.regenerate=true", "data.regenerate_max_new_tokens=4"]
    sampled = ["data.regenerate_temperature=0.7", "data.regenerate_samples=2"]
    served = ["verifier_answers=served", f"verifier_answers.python={VLLM}"]
    made = prepared(compose([*own, *sampled, *served]), tmp_path / "cache")
    assert len(documents(made)) == 78
    assert caplog.text.count("starting vLLM") == 1
