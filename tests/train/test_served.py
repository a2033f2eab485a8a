"""Training from served states is training from the verifier's own, whatever the server does meanwhile."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from speculators.data.prepare import Prepared
from speculators.data.served_states import ServedStates, served_states
from speculators.data.vllm_server import ServerUnavailable
from speculators.train.batches import announced
from speculators.train.interrupt import Interrupted
from speculators.train.loop import train
from speculators.train.order import Order
from speculators.verifier.in_process import Verifier
from speculators.verifier.loader import VerifierLoader
from tests.cache.conftest import settings
from tests.served.conftest import chosen
from tests.served.server import Fault, Handler, LocalServer

TRAINER = {"epochs": 2, "batch_size": 2, "gradient_accumulation_steps": 2, "eval_every": 3, "log_every": 1}


@pytest.fixture
def server(verifier: Verifier, tmp_path: Path) -> Iterator[LocalServer]:
    """Delivers the layers that the tests' drafts read."""
    (tmp_path / "shared").mkdir()
    server = LocalServer(verifier, [1, 2, 3], tmp_path / "shared").start()
    yield server
    server.stop()


@pytest.fixture
def opened(
    server: LocalServer, llama: LlamaForCausalLM, verifier: Verifier, prepared: Prepared, tmp_path: Path
) -> Callable[..., AbstractContextManager[ServedStates]]:
    """Opens the server's states."""
    llama.save_pretrained(tmp_path / "verifier")

    def open(**values: Any) -> AbstractContextManager[ServedStates]:
        loader = VerifierLoader(settings(tmp_path / "verifier"), verifier.device)
        return served_states(chosen(server, **values), loader, [*prepared.train, *prepared.heldout], [1, 2, 3], 64)

    return open


def test_steps_are_announced_before_they_are_needed() -> None:
    """Two ahead of the one that is given out, each once, and no more."""
    seen: list[tuple[str, Any]] = []
    steps: Any = [[n] for n in range(4)]
    for batches in announced(steps, lambda batches: seen.append(("announced", batches)), 2):
        seen.append(("given", batches))
    said = [f"{what} {batches[0]}" for what, batches in seen]
    assert said == [
        "announced 0", "announced 1", "announced 2", "given 0", "announced 3", "given 1", "given 2", "given 3",
    ]  # fmt: skip


def test_the_weights_are_those_with_the_verifier_in_process(
    make_run, lines, fresh, verifier, prepared, server, opened, tmp_path: Path
) -> None:
    """Also where the server ends in the middle and comes back: that costs time, and not a bit of a weight."""
    run = make_run(trainer=TRAINER)
    models = {}
    for name in ("in_process", "served", "interrupted"):
        models[name] = fresh(run)
        (tmp_path / name).mkdir()
    expected = train(models["in_process"], verifier, prepared, run, tmp_path / "in_process")
    with opened() as states:
        result = train(models["served"], states, prepared, run, tmp_path / "served")
    order = Order(len(prepared.train), run.seed, run.trainer)
    places = [place.index for step in range(order.steps) for batch in order.of_step(step) for place in batch]
    evaluated = [prepared.heldout] * 2
    needed = [*(prepared.train[i] for i in places), *(sequence for side in evaluated for sequence in side)]
    documents = Counter(tuple(document.tokens) for sequence in needed for document in sequence)
    asked = Counter(map(tuple, server.asked[1:]))  # the first one is the check's
    assert asked == documents and result.steps == order.steps == 6

    def end(handler: Handler, body: dict[str, Any], file: Path) -> None:
        """The server ends while it has requests, and is back after a while."""
        handler.connection.close()
        threading.Thread(target=server.stop).start()
        threading.Timer(0.3, server.start).start()

    server.faults = [None] * 20 + [end]
    with opened() as states:
        train(models["interrupted"], states, prepared, run, tmp_path / "interrupted")
    assert server.faults == []
    for kind in ("train", "heldout"):
        losses = [[line["loss"] for line in lines(tmp_path / name, kind)] for name in models]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] == losses[1] and len(losses[0]) > 1
    assert result.heldout["acceptance"] == pytest.approx(expected.heldout["acceptance"], rel=1e-4)
    for right, served, again in zip(*(m.parameters() for m in models.values()), strict=True):
        assert torch.equal(served, again) and (served - right).abs().max() < 1e-4


def away(server: LocalServer, ctrl_c: bool) -> Fault:
    """The server ends while it has requests; a moment later the user may press Ctrl-C."""

    def end(handler: Handler, body: dict[str, Any], file: Path) -> None:
        handler.connection.close()
        threading.Thread(target=server.stop).start()
        if ctrl_c:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    return end


@pytest.mark.parametrize("ctrl_c", [False, True])
def test_a_server_that_stays_away_leaves_a_run_that_goes_on(
    ctrl_c: bool, make_run, fresh, prepared, server, opened, tmp_path: Path
) -> None:
    """The last finished step is saved, and the resumed run has the weights of one that was never stopped."""
    run = make_run(trainer=TRAINER | {"eval_every": None})
    straight, resumed, folder = fresh(run), fresh(run), tmp_path / "stopped"
    folder.mkdir()
    with opened() as states:
        train(straight, states, prepared, run, tmp_path)

    server.faults = [None] * 26 + [away(server, ctrl_c)]
    timeout, expected = (60, Interrupted) if ctrl_c else (0.5, ServerUnavailable)
    began = time.monotonic()
    with opened(timeout=timeout) as states, pytest.raises(expected, match="the state is saved|no states from"):
        train(resumed, states, prepared, run, folder)
    assert time.monotonic() - began < 20
    (saved,) = folder.glob("checkpoints/step_*")
    assert saved.name in ("step_1", "step_2", "step_3")
    server.start()
    resumed = fresh(run)
    with opened() as states:
        train(resumed, states, prepared, run, folder)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_ctrl_c_before_the_first_step(make_run, fresh, prepared, server, opened, tmp_path: Path) -> None:
    """There is nothing to save."""
    run = make_run(trainer=TRAINER)
    server.faults = [None, away(server, True)]
    with opened(timeout=60) as states, pytest.raises(KeyboardInterrupt):
        train(fresh(run), states, prepared, run, tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))
