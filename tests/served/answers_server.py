"""A server with the part of vLLM's API that served answers use, whose answers a verifier in this process gives."""

import json
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from speculators.decoding.generate import plain
from speculators.verifier.in_process import Verifier

from .server import JsonHandler

# What happens to a request instead of an ordinary answer; gets the handler and the request's body.
Fault = Callable[["Handler", dict[str, Any]], None]


class AnswersServer:
    """Serves a verifier on a port of its own.

    Args:
        verifier: answers greedily.
        name: under which it is served.

    Attributes:
        asked: the bodies of the requests, in the order in which they came.
        answered: prompts that got an answer.
        faults: of prompts, by their token ids, one for each time that it is asked.
        together: the most requests at a time.
        longest: max_model_len.
        pause: seconds that each answer takes at least.
    """

    def __init__(self, verifier: Verifier, name: str) -> None:
        self.verifier, self.name, self.longest, self.pause = verifier, name, 64, 0.0
        self.asked: list[dict[str, Any]] = []
        self.answered: list[list[int]] = []
        self.faults: dict[tuple[int, ...], list[Fault]] = {}
        self.together = self._now = 0
        self.lock, self.passes = threading.Lock(), threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.owner = self  # pyright: ignore[reportAttributeAccessIssue]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """What vLLM answers to a request."""
        with self.lock:
            self._now += 1
            self.together = max(self.together, self._now)
        time.sleep(self.pause)
        prompt, ends = body["prompt"], set(body["stop_token_ids"])
        assert self.verifier.eos_ids <= ends
        with self.passes:  # the verifier's hooks serve one pass at a time
            (tokens,) = plain(self.verifier, [prompt], body["max_tokens"], 1)
        with self.lock:
            self._now -= 1
            self.answered.append(prompt)
        reason = "stop" if tokens[-1] in ends else "length"
        return {"choices": [{"token_ids": tokens, "prompt_token_ids": prompt, "finish_reason": reason}]}


class Handler(JsonHandler):
    """Answers a request."""

    @property
    def owner(self) -> AnswersServer:
        return self.server.owner  # pyright: ignore[reportAttributeAccessIssue]

    def do_GET(self) -> None:
        owner = self.owner
        card = {"id": owner.name, "root": "the/verifier", "max_model_len": owner.longest}
        self.answer(200, {"data": [card]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner = self.owner
        with owner.lock:
            owner.asked.append(body)
            faults = owner.faults.get(tuple(body["prompt"]), [])
            fault = faults.pop(0) if faults else None
        if fault is not None:
            fault(self, body)
        else:
            self.answer(200, owner.answer(body))
