"""A server with the part of vLLM's API that served states use, which delivers the states of a verifier in this process."""

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from speculators.data.collate import collate
from speculators.data.template import Document
from speculators.verifier.in_process import Verifier

# What happens to a request instead of an ordinary answer: gets the handler, the body and the file that would be written.
Fault = Callable[["Handler", dict[str, Any], Path], None]


class LocalServer:
    """Serves layers of a verifier on a port of its own.

    Args:
        verifier: computes the states.
        layer_ids: ascending; the last is the number of layers.
        folder: to which the states are written.

    Attributes:
        asked: the prompts, in the order in which they came.
        faults: of the next requests for states, first to last; None is an ordinary answer.
        name: under which the verifier is served.
        longest: max_model_len.
    """

    def __init__(self, verifier: Verifier, layer_ids: Sequence[int], folder: Path) -> None:
        self.verifier, self.layer_ids, self.folder = verifier, list(layer_ids), folder
        self.name, self.longest = f"layers-{'-'.join(map(str, layer_ids))}", 65
        self.asked: list[list[int]] = []
        self.faults: list[Fault | None] = []
        self.lock = threading.Lock()
        # The verifier's hooks serve one pass at a time.
        self.passes = threading.Lock()
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "LocalServer":
        """Listen, after a stop on the same port."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.owner = self  # pyright: ignore[reportAttributeAccessIssue]
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def tensors(self, tokens: list[int]) -> dict[str, torch.Tensor]:
        """The content of a file."""
        with self.passes:
            found = self.verifier(collate([[Document(tokens, [True] * len(tokens))]], 1), self.layer_ids)
        assert found.aux_BTA is not None
        states_TLH = found.aux_BTA[0].view(len(tokens), len(self.layer_ids), -1).contiguous()
        return {"hidden_states": states_TLH, "token_ids": torch.tensor(tokens)}

    def next_token(self, tokens: list[int]) -> tuple[int, float]:
        """The most likely next token, and its log-probability."""
        with self.passes:
            found = self.verifier(collate([[Document(tokens, [True] * len(tokens))]], 1), [])
        chance, token = self.verifier.head.logits(found.last_BTH[0, -1:])[0].log_softmax(-1).max(0)
        return int(token), float(chance)


class JsonHandler(BaseHTTPRequestHandler):
    """Answers in JSON."""

    def answer(self, status: int, content: Any) -> None:
        """Send JSON."""
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Handler(JsonHandler):
    """Answers a request."""

    @property
    def owner(self) -> LocalServer:
        return self.server.owner  # pyright: ignore[reportAttributeAccessIssue]

    def do_GET(self) -> None:
        card = {"id": self.owner.name, "root": "the/verifier", "max_model_len": self.owner.longest}
        self.answer(200, {"data": [card]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner = self.owner
        with owner.lock:
            owner.asked.append(body["prompt"])
            file = owner.folder / f"cmpl-{len(owner.asked)}.safetensors"
            fault = owner.faults.pop(0) if owner.faults else None
        if body["model"] != owner.name:
            self.answer(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        elif fault is not None:
            fault(self, body, file)
        else:
            self.deliver(body, file)

    def deliver(
        self,
        body: dict[str, Any],
        file: Path,
        change: Callable[[dict[str, torch.Tensor]], Any] | None = None,
        late: float = 0.0,
        **answer: Any,
    ) -> None:
        """Write the states and say where they are.

        Args:
            body: of the request.
            file: to which they are written.
            change: alters the file's tensors.
            late: seconds by which the file comes after the answer; meanwhile it is locked.
            answer: replaces keys of the answer.
        """
        tensors = self.owner.tensors(body["prompt"])
        if change is not None:
            change(tensors)
        lock = os.open(f"{file}.lock", os.O_CREAT | os.O_WRONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not late:
            save_file(tensors, file)
            os.close(lock)
        token, chance = self.owner.next_token(body["prompt"])
        choice = {"token_ids": [token], "logprobs": {"token_logprobs": [chance]}}
        self.answer(200, {"choices": [choice], "kv_transfer_params": {"hidden_states_path": str(file)}} | answer)
        if late:
            time.sleep(late)
            save_file(tensors, file)
            os.close(lock)
