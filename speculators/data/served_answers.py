"""Answers to prompts from a vLLM server, by its OpenAI-compatible API: token ids in, token ids out.

The prompts are rendered by the run, so an answer belongs to the run's chat template and is kept token for token as the server
generated it.
"""

import asyncio
import json
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from speculators.data.template import ChatTemplate
from speculators.data.vllm_server import (
    CONNECT_SECONDS,
    PASSING,
    SAY,
    NoAnswer,
    Patience,
    ServerUnavailable,
    VllmServer,
    card_of,
    command,
    model_arguments,
)
from speculators.decoding.text_sampler import text_seed
from speculators.settings.answers import ServedAnswers as Settings
from speculators.settings.data import DataSettings
from speculators.utils.dotted import find
from speculators.utils.untrusted import parse_json, shortened
from speculators.verifier.loader import VerifierLoader
from speculators.verifier.settings import VerifierSettings

log = logging.getLogger(__name__)
Prompt = tuple[int, ...]
Found = TypeVar("Found")
# Statuses of a request that is refused for what it asks; another request may be answered.
REFUSING = (400, 413, 422)
# Refused prompts without any answer at which the run stops.
MOST_REFUSED = 100


class Refused(Exception):
    """The server refuses a prompt; the text says why."""


@dataclass(frozen=True)
class Request:
    """How prompts are asked.

    Attributes:
        model: name under which the verifier is served.
        data: max_length and the settings of regenerated answers.
        end_ids: tokens that end an answer.
        thinking_token_budget: most tokens of the reasoning; None is no limit.
    """

    model: str
    data: DataSettings
    end_ids: Sequence[int]
    thinking_token_budget: int | None

    def of(self, prompt: Prompt, seed: int) -> dict[str, Any]:
        """The body of the request for one prompt; it sets what servers may have other defaults for."""
        room = self.data.max_length - len(prompt)
        body: dict[str, Any] = {
            "model": self.model, "prompt": list(prompt), "max_tokens": min(self.data.regenerate_max_new_tokens or room, room),
            "temperature": self.data.regenerate_temperature, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
            "stop_token_ids": list(self.end_ids), "return_token_ids": True,
        }  # fmt: skip
        if self.data.regenerate_temperature:
            body["seed"] = text_seed(seed, prompt)
        if self.thinking_token_budget is not None:
            body["thinking_token_budget"] = self.thinking_token_budget
        return body


class AnswersClient:
    """Asks a server for answers, several at a time.

    Args:
        url: address of the server.
        request: how prompts are asked.
        settings: concurrency and timeout are read.
        command: starts such a server; for messages.
        server: if it is this run's, it is started when it is needed.
    """

    def __init__(
        self, url: str, request: Request, settings: Settings, command: str, server: VllmServer | None = None
    ) -> None:
        self.url = url
        self._request, self._settings, self._command, self._server = request, settings, command, server
        self._said = -SAY

    def __call__(self, prompts: Sequence[Prompt], seed: int, keep: Callable[[Prompt, list[int]], None]) -> None:
        """Ask for answers.

        Args:
            prompts: token ids, each shorter than data.max_length.
            seed: of sampled answers.
            keep: gets each answer as it arrives; prompts that the server refuses are counted in the log.

        Raises:
            ServerUnavailable: the server does not answer, serves something else, or refuses every prompt.
        """
        try:
            asyncio.run(self._ask_all(prompts, seed, keep))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # of the first request that failed; the others were cancelled

    async def _ask_all(self, prompts: Sequence[Prompt], seed: int, keep: Callable[[Prompt, list[int]], None]) -> None:
        left, answered, refused = iter(prompts), 0, list[str]()

        async def work(http: httpx2.AsyncClient) -> None:
            nonlocal answered
            for prompt in left:
                try:
                    answer = await self._persistently(partial(self._answer, http, prompt, seed))
                except Refused as error:
                    refused.append(str(error))
                    if not answered and len(refused) == min(MOST_REFUSED, len(prompts)):
                        raise self._wrong(f"refuses the prompts: {error}") from error
                else:
                    answered += 1
                    keep(prompt, answer)

        key = os.environ.get("VLLM_API_KEY")  # as for the server
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        count = min(self._settings.concurrency, len(prompts))
        limits = httpx2.Limits(max_connections=count)
        # The environment's proxies are not for a server on this machine or beside it.
        timeout = httpx2.Timeout(self._settings.timeout, connect=CONNECT_SECONDS)
        async with httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits, trust_env=False) as http:
            await self._persistently(partial(self._get, http, "/health"))
            await self._persistently(partial(self._check, http))
            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(work(http))
        if refused:
            log.warning(
                "data: the server refused %d of %d prompts; the first: %s", len(refused), len(prompts), refused[0]
            )

    async def _persistently(self, ask: Callable[[], Awaitable[Found]]) -> Found:
        """What `ask` gives, asked again while that may help."""
        patience = Patience(self._settings.timeout)
        while True:
            if self._server is not None:
                self._server.ensure()
            try:
                found = await ask()
            except NoAnswer as error:
                if patience.ended:
                    raise ServerUnavailable(
                        f"verifier_answers: no answer from {self.url} for {patience.waited:.0f} s: {error}; answers that it has "
                        "given are kept"
                    ) from error
                if time.monotonic() - self._said > SAY:
                    self._said = time.monotonic()
                    log.info("waiting up to %.0f s for answers from %s: %s", self._settings.timeout, self.url, error)
                await asyncio.sleep(patience.pause())
            else:
                if self._server is not None:
                    self._server.answered()
                return found

    async def _answer(self, http: httpx2.AsyncClient, prompt: Prompt, seed: int) -> list[int]:
        """Token ids of one answer."""
        got = await self._read(http.post(f"{self.url}/v1/completions", json=self._request.of(prompt, seed)))
        answer, read = find(got, "choices.0.token_ids"), find(got, "choices.0.prompt_token_ids")
        if not isinstance(answer, list) or not answer or not all(type(token) is int for token in answer):
            raise self._wrong("does not return the token ids of its answers")
        if read != list(prompt):
            raise self._wrong("has read another prompt than it was asked")
        if find(got, "choices.0.finish_reason") not in ("stop", "length"):
            raise NoAnswer(f"the answer was ended by {shortened(find(got, 'choices.0.finish_reason'))}")
        return answer

    async def _check(self, http: httpx2.AsyncClient) -> None:
        """Raise ServerUnavailable if the server does not serve the verifier, or too short."""
        try:
            card = card_of(await self._get(http, "/v1/models"), self._request.model)
        except ValueError as error:
            raise self._wrong(f"{error}, and this run asks {self._request.model} (verifier_answers.model)") from error
        longest, needed = card.get("max_model_len"), self._request.data.max_length
        if isinstance(longest, int) and longest < needed:
            raise self._wrong(f"takes at most {longest} tokens, and data.max_length is {needed}")
        log.info("answers of %s from %s", shortened(card.get("root")), self.url)

    async def _get(self, http: httpx2.AsyncClient, path: str) -> dict[str, Any]:
        try:
            return await self._read(http.get(f"{self.url}{path}"))
        except Refused as error:
            raise self._wrong(f"does not answer as vLLM does ({error})") from error

    async def _read(self, request: Awaitable[httpx2.Response]) -> dict[str, Any]:
        """The server's answer to a request; an empty one has no keys."""
        try:
            response = await request
        except httpx2.TransportError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        status, said = response.status_code, f"{response.status_code} {shortened(response.text[:1000])}"
        if status == 200:
            try:
                return parse_json(response.content or b"{}")
            except ValueError as error:
                raise self._wrong(f"does not answer as vLLM does ({error})") from error
        if status >= 500 or status in PASSING:
            raise NoAnswer(said)
        if status in REFUSING:
            raise Refused(said)
        raise self._wrong(f"refuses a request: {said}")

    def _wrong(self, what: str) -> ServerUnavailable:
        """The error about a server that is not the one which the run needs."""
        return ServerUnavailable(
            f"verifier_answers: the server at {self.url} {what}; such a server is started with: {self._command}"
        )


def arguments(
    settings: Settings, data: DataSettings, verifier: VerifierSettings, dtype: str, template: ChatTemplate, on_cpu: bool
) -> list[str]:
    """Arguments of vLLM's server that generates a verifier's answers.

    Args:
        settings: the server's.
        data: max_length and the temperature are read.
        verifier: which model.
        dtype: in which it runs.
        template: the verifier's, which has the marks of its reasoning.
        on_cpu: whether it is vLLM's CPU build.

    Raises:
        ValueError: the reasoning has a budget, and the template has no reasoning.
    """
    given = model_arguments(verifier, settings.model or verifier.name_or_path, dtype, data.max_length)
    if on_cpu and data.regenerate_temperature:
        # vLLM 0.32's CPU build ends where the prompt of a request with a seed is read in several steps.
        given.append("--no-enable-chunked-prefill")
    if settings.thinking_token_budget is None:
        return given
    _, opening, middle, _ = template.marks
    if not opening or not middle:
        raise ValueError(
            f"verifier_answers.thinking_token_budget={settings.thinking_token_budget}: the verifier's chat template has no "
            "marks of reasoning; leave it out"
        )
    marks = {"reasoning_start_str": opening, "reasoning_end_str": middle}
    return [*given, "--reasoning-config", json.dumps(marks)]


@contextmanager
def served_answers(
    settings: Settings, data: DataSettings, verifier: VerifierLoader, template: ChatTemplate
) -> Iterator[AnswersClient]:
    """A client of a server, which is started and stopped here unless it is given by its address.

    Args:
        settings: of the server.
        data: max_length and the settings of regenerated answers.
        verifier: its name and dtype; released if it is loaded.
        template: the verifier's, whose end tokens end an answer.

    Raises:
        ValueError: as `arguments`.
    """
    on_cpu = verifier.device.type == "cpu"
    given = arguments(settings, data, verifier.settings, verifier.dtype, template, on_cpu)
    model = settings.model or verifier.settings.name_or_path
    request = Request(model, data, sorted(template.end_ids), settings.thinking_token_budget)
    if settings.url is not None:
        yield AnswersClient(settings.url, request, settings, command(given))
        return
    verifier.release()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="speculators-answers-"))
        python, more = settings.python or sys.executable, shlex.split(settings.args or "")
        server = VllmServer(python, [*given, *more], Path(folder) / "vllm.log", on_cpu, "verifier_answers")
        stack.callback(server.stop)
        yield AnswersClient(server.url, request, settings, command(given), server)
