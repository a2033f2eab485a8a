"""Whatever a server of states answers or writes, there is one message in a moment, and no file beyond the folder is touched."""

import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPMessage
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from speculators.data.states_client import Expected, StatesClient
from speculators.data.vllm_server import ServerUnavailable

TOKENS, LAYERS, H = [5, 6, 7], 2, 4
GOOD = {"hidden_states": torch.ones(len(TOKENS), LAYERS, H), "token_ids": torch.tensor(TOKENS)}
CARD = {"id": "layers-0-2", "root": "the/verifier", "max_model_len": 65}
CHOICE = {"token_ids": [3], "logprobs": {"token_logprobs": [-1.0]}}
NAN, ESCAPE = float("nan"), "\x1b[2J\x07"


def http(content: Any, status: str = "200 OK") -> bytes:
    """An answer with a body of JSON, or of bytes."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def completion(**changed: Any) -> bytes:
    """vLLM's answer to a document, with some keys changed."""
    return http({"choices": [CHOICE], "kv_transfer_params": {"hidden_states_path": "/there/a.safetensors"}} | changed)


def named(path: Any) -> bytes:
    return completion(kv_transfer_params={"hidden_states_path": path})


class Server(ThreadingTCPServer):
    """Gives the same bytes to each request of a kind."""

    daemon_threads = True
    cards: bytes = http({"data": [CARD]})
    states: bytes = completion()


class Handler(StreamRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        request, headers = self.rfile.readline(), HTTPMessage()
        while (line := self.rfile.readline().strip()) != b"":
            key, _, value = line.decode().partition(":")
            headers[key] = value
        self.rfile.read(int(headers.get("Content-Length", 0)))
        self.wfile.write(http({}) if b"/health" in request else server.cards if b"GET" in request else server.states)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def client(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> StatesClient:
    """Its folder has a good file beside one that is private; a parameter is the seconds that it waits for the server."""
    server.cards, server.states = Server.cards, Server.states
    folder = tmp_path / "shared"
    folder.mkdir()
    save_file(GOOD, folder / "a.safetensors")
    save_file(GOOD, tmp_path / "private.safetensors")
    for place in (folder / "a.safetensors", tmp_path / "private.safetensors"):
        Path(f"{place}.lock").touch()
    expected = Expected("layers-0-2", LAYERS, H, torch.float32, 64, "the command")
    seconds = getattr(request, "param", 0.01)
    return StatesClient(f"http://127.0.0.1:{server.server_address[1]}", folder, expected, seconds)


def refused(client: StatesClient, tmp_path: Path) -> str:
    """The message, which is short and comes quickly; the private file is still there."""
    start = time.monotonic()
    with pytest.raises(ServerUnavailable) as caught:
        client.first_states(TOKENS)
    message = str(caught.value)
    assert time.monotonic() - start < 5 and len(message) < 1500, message[:2000]
    assert (tmp_path / "private.safetensors").exists() and (tmp_path / "private.safetensors.lock").exists()
    return message


@pytest.mark.parametrize("client", [30.0], indirect=True)
def test_good_answers_are_taken(client: StatesClient) -> None:
    first = client.first_states(TOKENS)
    assert torch.equal(first.states_TLH, GOOD["hidden_states"]) and (first.token, first.root) == (3, "the/verifier")


CHOICES = [
    {}, [], None, "x", 1, [[]], [{}], [{"token_ids": []}], [{"token_ids": {}, "logprobs": []}],
    *([CHOICE | {"token_ids": [token]}] for token in (-1, -(10**9), True, None, "3", [1], 1.5, NAN)),
    *([CHOICE | {"logprobs": {"token_logprobs": [chance]}}] for chance in (0, None, "x", [0.1])),
]  # fmt: skip
PATHS = [
    {}, [], None, 1, "", "/", ".", "..", "x", "x" * 5000 + ".safetensors", "a\0b.safetensors", "\ud800.safetensors",
    f"{ESCAPE}.safetensors", ".safetensors", "../private.safetensors", "a/../b.safetensors", "/dev/zero.safetensors",
    "C:\\a.safetensors", "a\n.safetensors", "%2e%2e/b.safetensors", "a.safetensors/", "a.safetensors.lock",
]  # fmt: skip
RAW = {
    "garbage": f"{ESCAPE}garbage\r\n\r\n".encode(),
    "nothing": b"",
    "a status line": f"HTTP/1.1 {ESCAPE} OK\r\n\r\n".encode(),
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "a length of letters": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
    "a body that is cut": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",
    "a broken chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
    "a negative chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    "a long header": b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "a redirect": b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n",
    "bytes": http(b"\xff\xfe"),
    "depth": http(b"[" * 60_000),
    "digits": http(b'{"a": ' + b"9" * 7000 + b"}"),
    "a number": http(7),
    "null": http(None),
    "a list": http([{}]),
    "a long text": http("x" * 10**6),
    **{
        str(status): http(ESCAPE, f"{status} {ESCAPE}") for status in (201, 204, 301, 401, 403, 404, 408, 429, 500, 599)
    },
}


ANSWERS = (
    {f"choices {choices}": completion(choices=choices) for choices in CHOICES}
    | {f"path {ascii(path)[:40]}": named(path) for path in PATHS}
    | RAW
)


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers(kind: str, client: StatesClient, server: Server, tmp_path: Path) -> None:
    server.states = ANSWERS[kind]
    refused(client, tmp_path)


CARDS = [
    {}, [], None, {"data": None}, {"data": {}}, {"data": [None]}, {"data": [{}]}, {"data": [{"id": 1}]},
    {"data": [{"id": ESCAPE}]}, {"data": [CARD | {"max_model_len": 3}]}, {"data": [{"id": "x" * 10**6}]},
    {"data": [{"id": f"m{i}"} for i in range(10**4)]},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CARDS)))
def test_cards(number: int, client: StatesClient, server: Server, tmp_path: Path) -> None:
    server.cards = http(CARDS[number])
    assert "\x1b" not in refused(client, tmp_path)


STATES: dict[str, Any] = {
    "NaN": GOOD["hidden_states"] * NAN,
    "infinite": GOOD["hidden_states"] / 0,
    "one number": torch.tensor(1.0),
    "empty": torch.zeros(0),
    "four dimensions": GOOD["hidden_states"][None],
    "other sizes": GOOD["hidden_states"].transpose(1, 2).contiguous(),
    **{str(dtype): GOOD["hidden_states"].to(dtype)
       for dtype in (torch.int32, torch.bool, torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.complex64)},
}  # fmt: skip
IDS: dict[str, Any] = {
    "one number": torch.tensor(5),
    "NaN": torch.full((3,), NAN),
    "two dimensions": GOOD["token_ids"][None],
    "bool": GOOD["token_ids"].bool(),
    "empty": torch.zeros(0, dtype=torch.long),
    "others": GOOD["token_ids"] + 1,
}
FILES: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a link": lambda file: file.symlink_to(file.parent.parent / "private.safetensors"),
    "a large file": lambda file: (file.touch(), os.truncate(file, 10**12)),
    "nothing": lambda file: file.touch(),
    "zeros": lambda file: file.write_bytes(bytes(100)),
    "a header of 2**63 bytes": lambda file: file.write_bytes(struct.pack("<Q", 2**63) + b"{}"),
    "a deep header": lambda file: file.write_bytes(struct.pack("<Q", 60_000) + b"[" * 60_000),
    "a pickle": lambda file: torch.save(GOOD, file),
    **{
        f"states {name}": lambda file, t=tensor: save_file(GOOD | {"hidden_states": t}, file)
        for name, tensor in STATES.items()
    },
    **{
        f"tokens {name}": lambda file, t=tensor: save_file(GOOD | {"token_ids": t}, file)
        for name, tensor in IDS.items()
    },
    "no states": lambda file: save_file({"token_ids": GOOD["token_ids"]}, file),
    "no tokens": lambda file: save_file({"hidden_states": GOOD["hidden_states"]}, file),
    "many tensors": lambda file: save_file(GOOD | {f"t{i}": torch.zeros(1) for i in range(2000)}, file),
}


@pytest.mark.parametrize("kind", FILES)
def test_files(kind: str, client: StatesClient, tmp_path: Path) -> None:
    file = client.folder / "a.safetensors"
    file.unlink()
    FILES[kind](file)
    refused(client, tmp_path)


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device", "a link"])
def test_locks(kind: str, client: StatesClient, tmp_path: Path) -> None:
    lock = client.folder / "a.safetensors.lock"
    lock.unlink()
    FILES[kind](lock)
    refused(client, tmp_path)
