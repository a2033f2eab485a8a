"""What a dry run says: counted by hand, by the layouts, and against real runs."""

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode

from speculators.composition.compose import compose
from speculators.execution.memory import DRAFT_PASS, LARGE, LOSS, UPDATE, Ledger
from speculators.execution.plan import figures
from speculators.format.layout import Layout
from speculators.format.published import speculator_dict
from speculators.settings.algorithm import AlgorithmSettings
from speculators.verifier.facts import VerifierFacts
from tests.verifiers import drafted_for as drafted_for

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "plan.py"
FEW = ["data.max_conversations=20", "data.max_length=64", "trainer.batch_size=1", "evaluation.num_prompts=1"]
MB = 10**6


def plan(*overrides: str) -> dict[str, str]:
    """The figures of a run, by name."""
    run = compose([*FEW, *overrides])
    facts = VerifierFacts.read(run.verifier.name_or_path)
    return {name.strip(): value for name, value in figures(run, speculator_dict(run, facts), facts)}


def gigabytes(words: str) -> float:
    """What `0.87 GB resident` says."""
    return float(words.split()[0])


def test_ledger_counts_what_is_alive() -> None:
    """Results of 4 MB: the first is freed before the last is made, so that no more than two are alive."""
    with FakeTensorMode(), Ledger() as ledger:
        weight = torch.empty(1000, 1000)
        with ledger.during("working", DRAFT_PASS):
            first = weight @ weight
            ledger.part = LOSS
            second = first @ weight
            del first
            third = second.view(500, 2000)  # no storage of its own
            third.add(1)
        assert ledger.moments["working"].parts == {"verifier's weights": 4 * MB, DRAFT_PASS: 4 * MB, LOSS: 4 * MB}
        assert ledger.moments["working"].small == 8 * MB
        ledger.rebook(third, UPDATE)
        assert ledger.parts() == {"verifier's weights": 4 * MB, UPDATE: 4 * MB}
        del second, third
        assert ledger.parts() == {"verifier's weights": 4 * MB}


def test_ledger_takes_large_blocks_for_returned() -> None:
    """What the C library hands back at once is no part of what it keeps."""
    with FakeTensorMode(), Ledger() as ledger, ledger.during("working", DRAFT_PASS):
        tensors = [torch.empty(LARGE // 4), torch.empty(LARGE // 4 - 1)]
    assert ledger.moments["working"].small == LARGE - 4
    assert len(tensors) == 2


@pytest.mark.parametrize("algorithm", AlgorithmSettings.names())
def test_parameters_are_those_of_the_layout(algorithm: str, drafted_for: Callable[[str], list[str]]) -> None:
    """The published tensors are listed apart from the model's code."""
    chosen = [f"algorithm={algorithm}", *drafted_for(algorithm)]
    run = compose(chosen)
    specs = Layout.named(algorithm).tensors(speculator_dict(run, VerifierFacts.read(run.verifier.name_or_path)))
    # An engine takes the verifier's embedding; a head of the whole vocabulary is trained all the same.
    own = [s for name, s in specs.items() if s.kind == "float" and (s.required or "lm_head" in name)]
    count = sum(prod(s.shape) for s in own)
    found = plan(*chosen, "optimizer=adamw")
    assert found["parameters of the draft"] == f"{count:,}, {count:,} of them trainable"
    assert gigabytes(found["draft's weights"]) == pytest.approx(4 * count / 1e9, abs=0.006)
    assert gigabytes(found["optimizer state"]) == pytest.approx(8 * count / 1e9, abs=0.006)


def test_steps_tokens_and_states_by_hand() -> None:
    """Read off the data's own report; 2 fused layers and the last, 256 wide, 4 bytes."""
    found = plan("trainer.epochs=3", "trainer.batch_size=2", "trainer.gradient_accumulation_steps=2")
    numbers = re.search(r"([\d,]+) tokens to train on in (\d+) sequences", found["data"])
    assert numbers is not None
    tokens, sequences = int(numbers[1].replace(",", "")), int(numbers[2])
    steps = -(-3 * sequences // 4)
    assert found["optimizer steps"] == f"{steps} of 4 sequences"
    assert found["tokens seen"] == f"{3 * tokens:,}"
    assert gigabytes(found["verifier's states"]) == pytest.approx(tokens * 3 * 256 * 4 / 1e9, rel=0.2, abs=0.01)
    halved = plan("trainer.max_steps=1", "trainer.batch_size=1")
    assert halved["tokens seen"] == f"{round(tokens / sequences):,}"


def test_what_cannot_be_known_is_said() -> None:
    """Without data the rest is there; answers that are to be regenerated are an estimate."""
    missing = plan("data=jsonl", "data.path=nowhere.jsonl")
    assert missing["data, steps, states"] == "unknown: data.path: no file matches nowhere.jsonl"
    assert gigabytes(missing["peak memory (cpu)"]) > 0
    regenerated = plan("data.regenerate=true")
    assert "of maximum length" in regenerated["estimated"]


def test_an_accelerator_that_is_not_here() -> None:
    """Its bytes are allocated ones: no libraries, the verifier in the checkpoint's bfloat16."""
    here, there = plan("device=cpu"), plan("device=cuda")
    assert "resident" in here["peak memory (cpu)"] and "allocated" in there["peak memory (cuda)"]
    assert {"libraries and data", "kept by the C library"} & set(there) == set()
    assert gigabytes(there["verifier's weights"]) == pytest.approx(gigabytes(here["verifier's weights"]) / 2, abs=0.006)
    assert here["FLOP a token"] == there["FLOP a token"] and "hours of training" not in here
    tokens, flop = float(there["tokens seen"].replace(",", "")), float(there["FLOP a token"].split()[0])
    # TF32 is the default for so small a verifier: 494 TFLOPS by the data sheet, of which 40 % are assumed.
    wanted = tokens * flop / (0.4 * 494e12) / 3600
    assert there["hours of training"] == f"estimated {wanted:.2g}, with an H100 at 40% of 494 TFLOPS"


def test_hours_of_answers_by_hand() -> None:
    """20 answers of 8 tokens in batches of 10 take 16 passes, each of which reads the 5,770,496 bfloat16 weights at 3.35 TB/s."""
    parameters = 4096 * 256 + 6 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 768 + 2 * 256) + 256
    wanted = 16 * 2 * parameters / 3.35e12 / 3600
    answered = [
        "data.regenerate=true",
        "data.regenerate_max_new_tokens=8",
        "data.max_length=320",
        "evaluation.batch_size=10",
    ]
    found = plan("device=cuda", *answered)["hours of the answers"]
    assert found == f"at least {wanted:.2g} for 160 tokens, once; 10 texts at a time, an H100 that reads 3.35 TB/s"
    assert "hours of the answers" not in plan("device=cuda")


def test_flop_by_hand() -> None:
    """EAGLE-3 on the embedded verifier (6 layers, 256 wide, MLP 768, 4 heads of 64, 2 of them of keys, 4,096 tokens).

    Without data a batch is full of answers, and all are learned from. A parameter of a matrix takes 2 FLOP a token in a forward
    pass and 4 in a backward pass, half of these where its input needs no gradient; attention takes 4 FLOP a token, channel and
    position that it sees.
    """
    attention, mlp, head, length = 256 * 256 * 2 + 256 * 128 * 2, 3 * 256 * 768, 4096 * 256, 64
    verifier = 6 * (2 * (attention + mlp) + 4 * 256 * length)
    found = plan("device=cpu", "verifier_states=cached", "optimizer=adamw", "data=jsonl", "data.path=nowhere.jsonl")
    assert float(found["of cached states"].partition(",")[0]) == pytest.approx(verifier, rel=0.01)
    layer = attention + 256 * (256 + 2 * 128) + mlp
    steps = 3 * 6 * (layer + head)
    # The states that a draft reads are fused once; the verifier's head gives what the steps learn from.
    once = 4 * 3 * 256 * 256 + 2 * head
    assert float(found["FLOP a token"].split()[0]) == pytest.approx(steps + once, rel=0.15)


def test_a_cached_run_has_no_layers_in_memory() -> None:
    """Of the embedded verifier its one matrix of 4,096 x 256 is left, and computing missing states is a phase of its own."""
    overrides = ["device=cpu", "evaluation.num_prompts=0", "data.max_length=256", "trainer.batch_size=4"]
    online, cached = plan(*overrides), plan(*overrides, "verifier_states=cached")
    assert gigabytes(cached["verifier's weights"]) == pytest.approx(4096 * 256 * 4 / 1e9, abs=0.006)
    assert gigabytes(online["verifier's weights"]) > gigabytes(cached["verifier's weights"])
    assert "extraction" in cached["by phase"] and "extraction" not in online["by phase"]


def test_dry_run_prints_the_dict_alone(tmp_path: Path) -> None:
    """stdout is one document, the published dict; figures and the composed config go to stderr; nothing is left behind."""
    command = [sys.executable, "-m", "speculators", "train", "algorithm=eagle", *FEW, "dry_run=true"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    run = compose(["algorithm=eagle", *FEW])
    assert yaml.safe_load(done.stdout) == speculator_dict(run, VerifierFacts.read(run.verifier.name_or_path))
    composed, _, figures_ = done.stderr.partition("\n# estimates\n")
    assert yaml.safe_load(composed) == run.model_copy(update={"dry_run": True}).model_dump(mode="json")
    assert "peak memory" in figures_
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="what the C library keeps is glibc's")
@pytest.mark.long
@pytest.mark.parametrize("overrides", [["algorithm=eagle3"], ["algorithm=medusa", "data.max_length=256"]])
def test_peak_memory_of_real_runs(overrides: list[str]) -> None:
    """Within 15 % of what the process had."""
    benchmark = runpy.run_path(str(BENCHMARK))
    overrides = [*overrides, "device=cpu", *benchmark["SHORT"]]
    assert benchmark["predicted"](overrides) == pytest.approx(benchmark["measured"](overrides), rel=0.15)
