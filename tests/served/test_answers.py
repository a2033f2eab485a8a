"""Answers from a server are the verifier's own; each is kept as it arrives, and a server's faults are repeated or refused."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from speculators.cache.entry import JOURNAL
from speculators.cache.store import LOCKS, Store
from speculators.composition.compose import compose
from speculators.data import saved
from speculators.data.prepare import Prepared
from speculators.data.regenerate import REFUSED
from speculators.data.served_answers import arguments
from speculators.data.vllm_server import ServerUnavailable
from speculators.settings.answers import ServedAnswers
from speculators.settings.run_config import RunConfig
from speculators.utils.messages import WrongInput
from speculators.verifier.in_process import Verifier
from speculators.verifier.loader import VerifierLoader
from tests.data.families import FAMILIES, chat_template

from .answers_server import AnswersServer, Fault, Handler

VOCAB = 4096
# Prepares data in a process of its own.
PREPARE = """
import sys
from pathlib import Path
import torch
from speculators.cache.store import Store
from speculators.composition.compose import compose
from speculators.data import saved
from speculators.verifier.loader import VerifierLoader
run = compose(sys.argv[2:])
saved.prepared(run, Store(Path(sys.argv[1]), None), VerifierLoader(run.verifier, torch.device("cpu")), 4096)
"""


@pytest.fixture(scope="module")
def whole() -> Verifier:
    """The embedded verifier."""
    return VerifierLoader(compose([]).verifier, torch.device("cpu")).whole()


@pytest.fixture
def server(whole: Verifier) -> Iterator[AnswersServer]:
    """A server of it."""
    server = AnswersServer(whole, "verifier")
    yield server
    server.stop()


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """A run with the first four tokens of answers to six prompts."""
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Say {n}."}) + "\n" for n in range(6)))
    return [
        "data=jsonl", f"data.path={file}", "data.regenerate=true", "data.regenerate_max_new_tokens=4", "data.max_length=64",
    ]  # fmt: skip


Served = Callable[..., RunConfig]


@pytest.fixture
def served(server: AnswersServer, overrides: list[str]) -> Served:
    """The run with answers from the server."""

    def run(*more: str) -> RunConfig:
        own = ["verifier_answers=served", f"verifier_answers.url={server.url}", "verifier_answers.model=verifier"]
        return compose([*overrides, *own, "verifier_answers.timeout=60", *more])

    return run


def store(folder: Path) -> Store:
    """An empty one, or one of an earlier run."""
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    return Store(folder, None)


def prepared(run: RunConfig, folder: Path) -> Prepared:
    """The run's data; the verifier is not loaded for served answers."""
    return saved.prepared(run, store(folder), VerifierLoader(run.verifier, torch.device("cpu")), VOCAB)


def documents(made: Prepared) -> list[tuple[list[int], list[bool]]]:
    """Tokens and masks, in order."""
    return [(d.tokens, d.supervised) for side in (made.train, made.heldout) for s in side for d in s]


def prompts(server: AnswersServer) -> list[tuple[int, ...]]:
    """What the server was asked, in order."""
    return [tuple(body["prompt"]) for body in server.asked]


def dropped(handler: Handler, body: dict[str, Any]) -> None:
    """The connection ends without an answer."""
    handler.close_connection = True


def answering(status: int, content: Any) -> Fault:
    """The server answers so."""
    return lambda handler, body: handler.answer(status, content)


def test_they_are_those_of_the_verifier_in_process(
    served: Served, server: AnswersServer, overrides: list[str], tmp_path: Path
) -> None:
    """Token for token, several at a time, and only once for all seeds and splits."""
    server.pause = 0.02
    found = prepared(served(), tmp_path / "served")
    expected = prepared(compose(overrides), tmp_path / "in_process")
    assert documents(found) == documents(expected) and str(found.report) == str(expected.report)
    asked = prompts(server)
    assert len(asked) == len(set(asked)) == 6 and 1 < server.together <= 6
    prepared(served("seed=1"), tmp_path / "served")
    assert prompts(server) == asked
    longest = max(asked, key=len)
    (body,) = [body for body in server.asked if tuple(body["prompt"]) == longest]
    assert body["temperature"] == 0 and "seed" not in body and "thinking_token_budget" not in body


def test_an_answer_ends_where_the_sequence_does(served: Served, server: AnswersServer, tmp_path: Path) -> None:
    """A server takes no more tokens than data.max_length."""
    prepared(served("data.regenerate_max_new_tokens=null", "data.max_length=24"), tmp_path)
    assert all(len(body["prompt"]) + body["max_tokens"] == 24 for body in server.asked)


def test_a_sampled_answer_has_a_seed_of_its_own(served: Served, server: AnswersServer, tmp_path: Path) -> None:
    """Which depends on the prompt and data.regenerate_seed alone."""

    def seeds(*more: str) -> dict[tuple[int, ...], int]:
        server.asked.clear()
        prepared(served("data.regenerate_temperature=0.7", *more), tmp_path)
        assert all(body["temperature"] == 0.7 for body in server.asked)
        return {tuple(body["prompt"]): body["seed"] for body in server.asked}

    first, other = seeds(), seeds("data.regenerate_seed=1")
    assert len(set(first.values())) == len(first) and first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())
    server.asked.clear()
    prepared(served("data.regenerate_temperature=0.7", "data.regenerate_samples=2"), tmp_path / "several")
    several = Counter(body["seed"] for body in server.asked)
    assert set(several) < set(first.values()) | set(other.values()) and set(several.values()) == {1}
    # Each prompt has its first answer; those that are trained on have a second one.
    assert set(first.values()) < set(several)
    assert seeds("seed=3") == {}  # all are kept


def test_a_stopped_run_asks_for_the_rest_alone(served: Served, server: AnswersServer, tmp_path: Path) -> None:
    """The answers before it are in the journal, whose last line may be cut off; afterwards they are in shards."""
    run = served("verifier_answers.concurrency=1")
    prepared(run, tmp_path / "undisturbed")
    order = prompts(server)
    server.asked.clear(), server.answered.clear()
    server.faults[order[2]] = [answering(401, {})]
    with pytest.raises(ServerUnavailable, match="refuses a request: 401"):
        prepared(run, tmp_path / "cache")
    (journal,) = (tmp_path / "cache").glob(f"answers-*/{JOURNAL}")
    with journal.open("a") as file:
        file.write("\n[[1, 2], [3")
    server.faults[order[4]] = [answering(401, {})]
    with pytest.raises(ServerUnavailable, match="refuses a request: 401"):
        prepared(run, tmp_path / "cache")
    found = prepared(run, tmp_path / "cache")
    assert len(server.answered) == len({tuple(p) for p in server.answered}) == len(order)
    assert documents(found) == documents(prepared(run, tmp_path / "undisturbed"))
    assert not journal.exists()


def test_only_a_journal_of_the_cache_is_read(served: Served, server: AnswersServer, tmp_path: Path) -> None:
    """A link in its place is removed, not followed."""
    prepared(served(), tmp_path / "cache")
    (entry,) = (tmp_path / "cache").glob("answers-*")
    other = tmp_path / "other"
    other.write_text(json.dumps([server.asked[0]["prompt"], [1, 2, 3]]) + "\n")
    for shard in entry.glob("*.safetensors"):
        shard.unlink()
    (entry / JOURNAL).symlink_to(other)
    asked = len(server.asked)
    prepared(served("seed=1"), tmp_path / "cache")
    assert len(server.asked) == 2 * asked and not (entry / JOURNAL).exists()
    assert json.loads(other.read_text())[1] == [1, 2, 3]


def test_what_may_pass_is_asked_again(
    served: Served, server: AnswersServer, overrides: list[str], tmp_path: Path
) -> None:
    """Errors of the server, ended connections, aborted answers."""
    expected = prepared(compose(overrides), tmp_path / "in_process")
    prepared(served("verifier_answers.concurrency=1"), tmp_path / "first")
    order = prompts(server)
    aborted = {"choices": [{"token_ids": [5], "prompt_token_ids": list(order[4]), "finish_reason": "abort"}]}
    server.faults |= {
        order[1]: [answering(500, {}), answering(503, {})],
        order[2]: [dropped],
        order[3]: [answering(429, {})],
        order[4]: [answering(200, aborted)],
    }
    server.asked.clear()
    assert documents(prepared(served(), tmp_path / "served")) == documents(expected)
    assert len(server.asked) == len(order) + 5


def test_a_refused_prompt_is_counted(served: Served, server: AnswersServer, tmp_path: Path) -> None:
    """And the others are used; a server that refuses every prompt stops the run."""
    prepared(served("verifier_answers.concurrency=1"), tmp_path / "first")
    order = prompts(server)
    refusal = answering(400, {"error": {"message": "no such token"}})
    server.faults[order[0]] = [refusal]
    made = prepared(served(), tmp_path / "second")
    assert made.report.skipped == {REFUSED: 1} and made.report.first[REFUSED].endswith("data.jsonl:1")
    server.faults |= {prompt: [refusal] for prompt in order}
    with pytest.raises(ServerUnavailable, match="refuses the prompts: 400 .*no such token"):
        prepared(served(), tmp_path / "third")


def test_another_server_is_refused(served: Served, server: AnswersServer, tmp_path: Path) -> None:
    """Which serves another model, is too short, returns texts alone, or changes the prompts; a message has the command."""
    with pytest.raises(
        ServerUnavailable, match=r"serves verifier, and this run asks other .*--served-model-name other"
    ):
        prepared(served("verifier_answers.model=other"), tmp_path)
    with pytest.raises(
        ServerUnavailable, match="takes at most 64 tokens, and data.max_length is 65.*--max-model-len 65"
    ):
        prepared(served("data.max_length=65"), tmp_path)
    prepared(served("verifier_answers.concurrency=1"), tmp_path / "first")
    first = prompts(server)[0]
    for choice, message in (
        ({"text": "So.", "finish_reason": "stop"}, "does not return the token ids"),
        ({"token_ids": [5], "prompt_token_ids": [1, *first], "finish_reason": "stop"}, "has read another prompt"),
    ):
        server.faults[first] = [answering(200, {"choices": [choice]})]
        with pytest.raises(ServerUnavailable, match=message):
            prepared(served(), tmp_path / "second")
    server.stop()
    with pytest.raises(ServerUnavailable, match=r"no answer from .* for \d s: ConnectError.* are kept"):
        prepared(served("verifier_answers.timeout=0.3", "data.regenerate_max_new_tokens=3"), tmp_path)


def test_reasoning_has_a_budget(served: Served, server: AnswersServer, tmp_path: Path) -> None:
    """The server gets its size with each prompt, and the template's marks when it is started."""
    run = served("verifier_answers.thinking_token_budget=3")
    assert isinstance(run.verifier_answers, ServedAnswers)
    template = chat_template(FAMILIES["qwen3"])
    given = arguments(run.verifier_answers, run.data, run.verifier, "float32", template, on_cpu=True)
    marks = json.loads(given[given.index("--reasoning-config") + 1])
    assert marks == {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}
    with pytest.raises(ValueError, match="thinking_token_budget=3: the verifier's chat template has no marks"):
        prepared(run, tmp_path)


def test_a_server_without_answers_to_give_is_refused() -> None:
    with pytest.raises(
        WrongInput, match="verifier_answers.source='served': has no effect without data.regenerate=true"
    ):
        compose(["verifier_answers=served"])


@pytest.mark.parametrize("overrides", [[], ["data.regenerate=true"], ["data.regenerate_temperature=0.7"]])
def test_several_samples_without_sampling_are_refused(overrides: list[str]) -> None:
    with pytest.raises(WrongInput, match="data.regenerate_samples=3: needs data.regenerate=true and a"):
        compose([*overrides, "data.regenerate_samples=3"])


@pytest.mark.slow
def test_a_killed_run_repeats_no_finished_answer(
    served: Served, server: AnswersServer, overrides: list[str], tmp_path: Path
) -> None:
    """By SIGKILL, while an answer is on its way."""
    prepared(served("verifier_answers.concurrency=1"), tmp_path / "undisturbed")
    late, killed = prompts(server)[2], threading.Event()
    server.asked.clear(), server.answered.clear()

    def unanswered(handler: Handler, body: dict[str, Any]) -> None:
        killed.wait()

    server.faults[late] = [unanswered]
    store(tmp_path / "cache")
    own = ["verifier_answers=served", f"verifier_answers.url={server.url}", "verifier_answers.model=verifier"]
    command = [
        sys.executable,
        "-c",
        PREPARE,
        str(tmp_path / "cache"),
        *overrides,
        *own,
        "verifier_answers.concurrency=2",
    ]
    run = subprocess.Popen(command)
    while len(server.answered) < 4:
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    killed.set()
    (journal,) = (tmp_path / "cache").glob(f"answers-*/{JOURNAL}")
    kept = [tuple(json.loads(line)[0]) for line in journal.read_text().splitlines() if line]
    assert len(kept) >= 3  # the fourth may have been on its way as well
    server.asked.clear()
    prepared(served(), tmp_path / "cache")
    asked = prompts(server)
    assert late in asked and not set(kept) & set(asked)
