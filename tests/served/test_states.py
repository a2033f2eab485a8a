"""Served states are the verifier's; what a server may do wrong is repeated or refused, and its files reach no further."""

import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from speculators.cache.store import LOCKS, Store
from speculators.composition.compose import compose
from speculators.data import states_client
from speculators.data.collate import collate
from speculators.data.verifier_states import open_states
from speculators.data.vllm_server import ServerUnavailable
from speculators.verifier.in_process import Verifier
from tests.cache.conftest import Loaded, sequences, settings

from .conftest import Open, chosen
from .server import Fault, Handler, LocalServer

close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
BATCH = collate(sequences()[:3], 3)
ONE = collate([sequences()[0][:1]], 3)


def check_states(states: Any, verifier: Verifier, layer_ids: Sequence[int] = (0, 2)) -> None:
    """Those of a batch are the verifier's."""
    found, right = states(BATCH, layer_ids), verifier(BATCH, layer_ids)
    there_BT = BATCH.document_BT >= 0
    close(found.last_BTH[there_BT], right.last_BTH[there_BT])
    assert found.last_BTH.shape == right.last_BTH.shape and (found.aux_BTA is None) == (not layer_ids)
    if layer_ids:
        close(found.aux_BTA[there_BT], right.aux_BTA[there_BT])
        assert not found.aux_BTA[~there_BT].any()
    assert torch.isfinite(found.last_BTH).all()


def test_they_are_the_verifiers(open_served: Open, server: LocalServer, verifier: Verifier) -> None:
    """Of any of the served layers, the last one's output among them, and after the final norm; no file is left."""
    for opened, layer_ids in (([0, 2], [[0, 2], [2], []]), ([2, 3], [[3], [2, 3]])):
        server.layer_ids = sorted({*opened, 3})
        server.name = f"layers-{'-'.join(map(str, server.layer_ids))}"
        with open_served(opened) as states:
            for chosen in layer_ids:
                check_states(states, verifier, chosen)
    assert list(server.folder.iterdir()) == []


def test_they_are_requested_in_the_order_of_announcement(open_served: Open, server: LocalServer) -> None:
    """A document is requested once, and none of a batch before all of the batches before it."""
    packed = sequences()
    batches = [collate(packed[i : i + 2], 3) for i in range(0, 12, 2)]
    with open_served(concurrency=1) as states:
        for batch in batches[:4]:
            states.announce(batch, [0, 2])
        for batch in batches:
            states(batch, [0, 2])
    assert server.asked[1:] == [document.tokens for sequence in packed[:12] for document in sequence]


def answered(status: int, content: Any = None) -> Fault:
    return lambda handler, body, file: handler.answer(status, content)


def unwritten(handler: Handler, body: dict[str, Any], file: Path) -> None:
    """As on a full disk: the server says that it wrote the file."""
    Path(f"{file}.lock").touch()
    handler.answer(200, {"kv_transfer_params": {"hidden_states_path": str(file)}})


def dropped(handler: Handler, body: dict[str, Any], file: Path) -> None:
    handler.connection.close()


def truncated(handler: Handler, body: dict[str, Any], file: Path) -> None:
    save_file(handler.owner.tensors(body["prompt"]), file)
    os.truncate(file, 200)
    Path(f"{file}.lock").touch()
    handler.answer(200, {"kv_transfer_params": {"hidden_states_path": str(file)}})


def late(handler: Handler, body: dict[str, Any], file: Path) -> None:
    handler.deliver(body, file, late=0.3)


def test_what_may_pass_is_tried_again(open_served: Open, server: LocalServer, verifier: Verifier) -> None:
    """The same fault twice, of different documents or of one, and the states are the same."""
    again = [answered(500), answered(503), answered(429), unwritten, truncated, dropped]
    with open_served() as states:
        for fault in [*again, late]:
            server.asked.clear()
            server.faults = [None, fault, fault]
            check_states(states, verifier)
            assert len(server.asked) == 6 + 2 * (fault in again)
    assert list(server.folder.iterdir()) == []


def delivered(change: Any) -> Fault:
    return lambda handler, body, file: handler.deliver(body, file, change)


def grown(tensors: dict[str, torch.Tensor]) -> None:
    tensors["hidden_states"] = tensors["hidden_states"].repeat(1, 20, 20)


def one_more(tensors: dict[str, torch.Tensor]) -> None:
    tensors["hidden_states"] = tensors["hidden_states"][:, [0, 1, 2, 2]].contiguous()


def in_half(tensors: dict[str, torch.Tensor]) -> None:
    tensors["hidden_states"] = tensors["hidden_states"].bfloat16()


def not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["hidden_states"][1, 1, 1] = torch.nan


def of_others(tensors: dict[str, torch.Tensor]) -> None:
    tensors["token_ids"] += 1


WRONG = {
    "too many tokens": (answered(400, {"error": "the prompt is too long"}), "refuses a request: 400 .*the prompt is too long"),
    "no states": (lambda h, b, f: h.deliver(b, f, kv_transfer_params=None), "answers without hidden states; .* started with: "),
    "no JSON": (answered(200, [1]), "does not answer as vLLM does"),
    "more layers": (delivered(one_more), r"states of shape \[\d+, 4, 32\], and this run reads \[\d+, 3, 32\]"),
    "a large file": (delivered(grown), "larger than .* this run reads 3 states of 32 numbers a token"),
    "another dtype": (delivered(in_half), r"torch.bfloat16, and this run's verifier.dtype is torch.float32: set that"),
    "not finite": (delivered(not_finite), "states that are not finite"),
    "of other tokens": (delivered(of_others), "the states of other tokens"),
}  # fmt: skip


def test_what_will_not_pass_is_refused(open_served: Open, server: LocalServer) -> None:
    """At once, with what is wrong and the command that starts the right server."""
    with open_served() as states:
        for name, (fault, message) in WRONG.items():
            server.asked.clear()
            server.faults = [fault]
            with pytest.raises(ServerUnavailable, match=message):
                states(ONE, [0, 2])
            assert len(server.asked) == 1, name


def test_another_server_is_refused(open_served: Open, server: LocalServer, verifier: Verifier, shared: Path) -> None:
    """Other layers of the same number, too short documents, another model; also when it comes back as another one."""
    server.longest = 64
    with pytest.raises(ServerUnavailable, match="takes at most 64 tokens.* a document of 64"), open_served():
        pass
    server.longest, server.name = 65, "layers-0-1-3"
    with pytest.raises(ServerUnavailable, match="serves layers-0-1-3, and this run reads layers-0-2-3"), open_served():
        pass
    server.name = "layers-0-2-3"
    with open_served() as states:
        server.name = "layers-0-1-3"
        with pytest.raises(ServerUnavailable, match="serves layers-0-1-3, and this run reads layers-0-2-3"):
            states(BATCH, [0, 2])
    server.name = "layers-0-2-3"
    norm = verifier.decoder.norm.weight
    norm.mul_(3)  # the verifier of the server alone: this run reads its own from the folder
    try:
        with pytest.raises(ServerUnavailable, match="serves another model.*the/verifier"), open_served():
            pass
    finally:
        norm.div_(3)


@pytest.mark.parametrize("token", [-(10**9), -1, True, "3", None])
def test_a_first_token_that_is_none_is_refused(token: Any, open_served: Open, server: LocalServer) -> None:
    choice = {"token_ids": [token], "logprobs": {"token_logprobs": [-1.0]}}
    server.faults = [lambda handler, body, file: handler.deliver(body, file, choices=[choice])]
    with pytest.raises(ServerUnavailable, match="without the log-probability of its token"), open_served():
        pass


def elsewhere(path: str) -> Fault:
    """The server names a file that is not its own."""
    return lambda handler, body, file: handler.deliver(body, file, kv_transfer_params={"hidden_states_path": path})


def test_files_beyond_the_folder_are_neither_read_nor_removed(
    open_served: Open, server: LocalServer, shared: Path, tmp_path: Path
) -> None:
    """By whatever name or link: of a path only the name counts."""
    secret = tmp_path / "secret.safetensors"
    Path(f"{secret}.lock").touch()
    save_file(server.tensors(ONE.token_BT[0].tolist()), secret)
    (shared / "link.safetensors").symlink_to(secret)
    os.mkfifo(shared / "pipe.safetensors")
    Path(shared / "pipe.safetensors.lock").touch()
    os.mkfifo(shared / "lock.safetensors.lock")
    (shared / "folder.safetensors").mkdir()
    Path(shared / "folder.safetensors.lock").touch()
    (shared / "locked.safetensors.lock").mkdir()
    names = {
        str(shared / "link.safetensors"): "leaves the folder",
        str(shared / ".."): "no safetensors file",
        str(tmp_path / "model.bin"): "no safetensors file",
        "x" * 250 + ".safetensors": "longer than",
        "folder.safetensors": "it is not a regular file",
        "locked.safetensors": "its lock is not a regular file",
        str(shared / "pipe.safetensors"): "it is not a regular file",
        str(shared / "lock.safetensors"): "its lock is not a regular file",
    }
    with open_served() as states:
        for path, message in names.items():
            server.faults = [elsewhere(path)]
            with pytest.raises(ServerUnavailable, match=message):
                states(ONE, [0, 2])
        # A path in another folder means a file of that name in this one, which is not there.
        server.faults = [elsewhere(str(secret))] * 99
        with pytest.raises(ServerUnavailable, match="must be the server's shared_storage_path, with room for the"):
            states(ONE, [0, 2])
    assert secret.exists() and Path(f"{secret}.lock").exists()


def test_a_server_that_stays_away_ends_the_wait(open_served: Open, server: LocalServer) -> None:
    with open_served(timeout=0.5) as states:
        server.stop()
        began = time.monotonic()
        with pytest.raises(ServerUnavailable, match=rf"no states from {server.url} for \d s: ConnectionRefusedError"):
            states(BATCH, [0, 2])
        assert 0.5 < time.monotonic() - began < 5


def test_a_machine_that_accepts_no_connection(
    server: LocalServer, open_served: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is switched off: each try ends after a while, and a signal ends the tries."""
    monkeypatch.setattr(states_client, "CONNECT_SECONDS", 0.3)
    with open_served(timeout=60) as states, ExitStack() as stack:
        server.stop()
        # Linux drops what goes beyond the queue of a socket that accepts nothing.
        full, *waiting = [stack.enter_context(socket.socket()) for _ in range(4)]
        full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        full.bind(("127.0.0.1", server.port))
        full.listen(0)
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", server.port))
        threading.Timer(0.5, states.stop_waiting).start()
        began = time.monotonic()
        with pytest.raises(ServerUnavailable, match="TimeoutError: timed out"):
            states(ONE, [0, 2])
        assert time.monotonic() - began < 10


def test_closing_ends_requests_that_wait(open_served: Open, server: LocalServer) -> None:
    """A server that never answers holds nothing up."""
    silent = threading.Event()
    with open_served() as states:
        server.faults = [lambda handler, body, file: silent.wait(30) and None] * 6
        states.announce(BATCH, [0, 2])
        time.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    silent.set()


def test_they_are_kept_on_disk(server: LocalServer, folder: Path, verifier: Verifier, tmp_path: Path) -> None:
    """The server computes each document once, and a second run asks it for nothing; the verifier's layers are not loaded."""
    run = compose(["verifier_states=served", "verifier_states.keep=true", "data.max_length=64"])
    run = run.model_copy(update={"verifier_states": chosen(server, keep=True)})
    (tmp_path / "cache" / LOCKS).mkdir(parents=True)
    store, packed = Store(tmp_path / "cache", None), sequences(20)
    loader = Loaded(settings(folder), verifier)
    for asked in (1 + 2 * 20, 0):
        server.asked.clear()
        with open_states(run, store, loader, packed, [0, 2]) as states:
            check_states(states, verifier)
        assert len(server.asked) == asked
        server.stop()
    assert loader.asked == 0
