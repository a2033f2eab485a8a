"""Asks a vLLM server for hidden states: a request over HTTP for each document, and a file in a shared folder for each answer.

The server runs vLLM's method `extract_hidden_states` with its connector for hidden states (vLLM 0.32): it writes a file
`NAME.safetensors`, and holds an exclusive lock on `NAME.safetensors.lock` until the file is complete.
"""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from shutil import disk_usage
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from speculators.data.vllm_server import (
    CONNECT_SECONDS,
    NAMES,
    PASSING,
    SAY,
    NoAnswer,
    Patience,
    ServerUnavailable,
    VllmServer,
    card_of,
)
from speculators.utils.dotted import find
from speculators.utils.untrusted import MOST_LIST_BYTES, inside, parse_json, printable, read_bytes, shortened

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)
Found = TypeVar("Found")
# Seconds between two looks at a lock.
LOOK = 0.002
# Times that a document is asked for again although its file was not written.
UNWRITTEN = 6
# Characters of a file's name, from which that of its lock is made.
MOST_NAME = 200
# Bytes of a file beside its tensors.
HEADER = 2**16


class NotWritten(NoAnswer):
    """The server answered, but its file is not there, or is cut off."""


@dataclass(frozen=True)
class Expected:
    """What a server must deliver.

    Attributes:
        model: the name under which it serves the verifier, which tells its layers.
        layers: number of states of a token.
        hidden_size: H.
        dtype: of the states.
        longest: tokens of the longest document.
        command: starts such a server; for messages.
    """

    model: str
    layers: int
    hidden_size: int
    dtype: torch.dtype
    longest: int
    command: str


class First(NamedTuple):
    """The answer to a first request.

    Attributes:
        states_TLH: the document's states.
        token: the token that the server puts after it.
        log_probability: of that token, by the server.
        root: what the server serves: a path or a Hub id on its machine.
    """

    states_TLH: Tensor
    token: int
    log_probability: float
    root: str


class StatesClient:
    """Requests the hidden states of documents; several threads may use it.

    Args:
        url: address of the server.
        folder: to which it writes, as this machine sees it; only files in it are read and removed.
        expected: what the server must deliver.
        timeout: seconds after which a document that cannot be had is given up.
        server: if it is this run's, it is started when it is needed.
    """

    def __init__(
        self, url: str, folder: Path, expected: Expected, timeout: float, server: VllmServer | None = None
    ) -> None:
        self.url, self.folder, self.expected = url, folder, expected
        self._timeout, self._server = timeout, server
        self._closed = threading.Event()
        # No Event: a signal handler that interrupts a wait for one cannot set it.
        self._patient = True
        self._open: set[HTTPConnection] = set()
        self._said = -SAY

    def states(self, tokens: Sequence[int]) -> Tensor:
        """[T, layers, H] of a document, of each layer in ascending order.

        Args:
            tokens: token ids of the document, at least one.

        Raises:
            ServerUnavailable: the server is another one, refuses the document, or gave no states before the timeout.
        """
        states, _ = self._persistently(lambda: self._of(tokens, {}))
        return states

    def first_states(self, tokens: Sequence[int]) -> First:
        """Wait until the server is ready, check what it serves, and ask it for a first document.

        Args:
            tokens: as of `states`.

        Raises:
            ServerUnavailable: as of `states`.
        """
        self._persistently(lambda: self._ask("GET", "/health"))
        root = self._persistently(self._served)
        states, answer = self._persistently(lambda: self._of(tokens, {"logprobs": 1, "return_token_ids": True}))
        token, chance = find(answer, "choices.0.token_ids.0"), find(answer, "choices.0.logprobs.token_logprobs.0")
        if type(token) is not int or token < 0 or not isinstance(chance, float):
            raise self._wrong("answers without the log-probability of its token")
        return First(states, token, chance, root)

    def stop_waiting(self) -> None:
        """Give up what the server does not answer, after at most one more request."""
        self._patient = False

    def close(self) -> None:
        """End all requests; threads that wait for an answer get a ServerUnavailable."""
        self._closed.set()
        for connection in list(self._open):
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def _served(self) -> str:
        """What the server serves under the expected name; ServerUnavailable if that is not there, or too short."""
        try:
            models = parse_json(self._ask("GET", "/v1/models"))
        except ValueError as error:
            raise self._wrong(f"does not answer as vLLM does ({error})") from error
        try:
            card = card_of(models, self.expected.model)
        except ValueError as error:
            raise self._wrong(f"{error}, and this run reads {self.expected.model}") from error
        longest = card.get("max_model_len")
        if isinstance(longest, int) and longest <= self.expected.longest:
            raise self._wrong(
                f"takes at most {longest} tokens, one of which it generates, and the data has a document of "
                f"{self.expected.longest}"
            )
        return printable(str(card.get("root"))[:NAMES])

    def _persistently(self, ask: Callable[[], Found]) -> Found:
        """What `ask` gives, asked again while that may help."""
        patience, unwritten = Patience(self._timeout), 0
        while not self._closed.is_set():
            if self._server is not None:
                self._server.ensure()
            try:
                found = ask()
            except NoAnswer as error:
                unwritten += isinstance(error, NotWritten)
                if unwritten > UNWRITTEN or patience.ended or not self._patient:
                    raise ServerUnavailable(
                        f"verifier_states: no states from {self.url} for {patience.waited:.0f} s: {error}"
                    ) from error
                self._say(error)
                self._closed.wait(patience.pause())
            else:
                if self._server is not None:
                    self._server.answered()
                return found
        raise ServerUnavailable("the source of the states was closed")

    def _say(self, error: NoAnswer) -> None:
        """Log why the run waits, once in a while."""
        if time.monotonic() - self._said > SAY:
            self._said = time.monotonic()
            log.info("waiting up to %.0f s for states from %s: %s", self._timeout, self.url, error)

    def _of(self, tokens: Sequence[int], more: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """States of a document, and the server's answer."""
        asked = {"model": self.expected.model, "prompt": list(tokens), "max_tokens": 1, "temperature": 0, **more}
        body = self._ask("POST", "/v1/completions", asked)
        try:
            answer = parse_json(body)
        except ValueError as error:
            raise self._wrong(f"does not answer as vLLM does ({error})") from error
        path = find(answer, "kv_transfer_params.hidden_states_path")
        if not isinstance(path, str):
            raise self._wrong("answers without hidden states")
        return self._read(path, tokens), answer

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """The body of the server's answer to one request."""
        place = urlsplit(self.url)
        kind = HTTPSConnection if place.scheme == "https" else HTTPConnection
        connection = kind(place.hostname or "", place.port, timeout=min(CONNECT_SECONDS, self._timeout))
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):  # as for the server
            headers["Authorization"] = f"Bearer {key}"
        self._open.add(connection)
        try:
            connection.connect()
            connection.sock.settimeout(self._timeout)
            connection.request(method, place.path + path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            payload, status = answer.read(MOST_LIST_BYTES), answer.status
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a chunk of negative length
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        finally:
            self._open.discard(connection)
            connection.close()
        if status == 200:
            return payload
        said = f"{status} {shortened(payload[:1000].decode(errors='replace'))}"
        if status >= 500 or status in PASSING:
            raise NoAnswer(said)
        if status == 404 and method == "POST":
            self._served()
        raise self._wrong(f"refuses a request: {said}")

    def _read(self, path: str, tokens: Sequence[int]) -> Tensor:
        """Read and remove the file that the server names; of its path only the name counts, which may differ between mounts."""
        name = path.rpartition("/")[2]
        try:
            if not name.endswith(".safetensors"):
                raise ValueError("it is no safetensors file")
            if len(name) > MOST_NAME:
                raise ValueError(f"its name is longer than {MOST_NAME} characters")
            file = inside(self.folder, name)
            lock = inside(self.folder, f"{name}.lock")
        except ValueError as error:
            raise self._wrong(f"names the file {shortened(path)}: {error}") from error
        T, layers, H = len(tokens), self.expected.layers, self.expected.hidden_size
        try:
            self._wait_for(lock)
            tensors = load(read_bytes(file, HEADER + T * (8 + layers * H * self.expected.dtype.itemsize)))
        except FileNotFoundError as error:
            raise NotWritten(self._not_there(path)) from error
        except (OSError, SafetensorError) as error:
            raise NotWritten(f"{file}: {error}") from error
        except ValueError as error:
            raise self._wrong(
                f"wrote {file}: {error}; this run reads {layers} states of {H} numbers a token"
            ) from error
        finally:
            for used in (file, lock):
                with suppress(OSError):  # a server may name what is no file
                    used.unlink()
        return self._checked(tensors, tokens)

    def _checked(self, tensors: dict[str, Tensor], tokens: Sequence[int]) -> Tensor:
        """The states of a file, if they are those that were asked for."""
        states, own = tensors.get("hidden_states"), tensors.get("token_ids")
        if states is None or own is None or own.tolist() != list(tokens):
            raise self._wrong("wrote the states of other tokens")
        shape = (len(tokens), self.expected.layers, self.expected.hidden_size)
        if tuple(states.shape) != shape:
            raise self._wrong(
                f"wrote states of shape {list(states.shape)}, and this run reads {list(shape)}: tokens, layers, hidden size"
            )
        if states.dtype != self.expected.dtype:
            raise self._wrong(
                f"wrote states in {states.dtype}, and this run's verifier.dtype is {self.expected.dtype}: set that, or "
                "give --dtype to the server"
            )
        if not torch.isfinite(states).all():
            raise self._wrong("wrote states that are not finite")
        return states

    def _wait_for(self, lock: Path) -> None:
        """Wait until the server's lock on a file is free: the file is complete then."""
        if lock.exists() and not lock.is_file():
            raise ValueError("its lock is not a regular file")  # opening a pipe would wait for ever
        began = time.monotonic()
        with lock.open("rb") as opened:
            while not self._closed.is_set():
                try:
                    fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    if time.monotonic() - began > self._timeout:
                        raise NotWritten(f"{lock} is still locked by the server") from None
                    time.sleep(LOOK)

    def _not_there(self, path: str) -> str:
        free = disk_usage(self.folder).free / 1e9 if self.folder.is_dir() else 0
        return (
            f"the server says that it wrote {printable(path)}, and the file is not in {self.folder}: that must be the server's "
            f"shared_storage_path, with room for the states ({free:.2f} GB are free)"
        )

    def _wrong(self, what: str) -> ServerUnavailable:
        """The error about a server that is not the one which the run needs."""
        return ServerUnavailable(
            f"verifier_states: the server at {self.url} {what}; such a server is started with: {self.expected.command}"
        )
