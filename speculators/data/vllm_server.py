"""A vLLM server in a process of its own, and what its clients share: when a request is repeated, and for how long."""

import logging
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from speculators.utils.process import module_command
from speculators.utils.untrusted import printable
from speculators.verifier.location import local_path
from speculators.verifier.settings import VerifierSettings

log = logging.getLogger(__name__)
MODULE = "vllm.entrypoints.openai.api_server"
# Of a server on a CPU: gigabytes of its caches, and threads that are not bound to the cores on which the training runs. One token
# more than the verifier has positions is allowed, since the token generated after a document gets no states.
ENVIRONMENT = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
# Times that a server may end before it has answered.
STARTS = 2
# Seconds for it to stop by itself; characters of its log in a message.
GRACE_SECONDS, SHOWN = 10, 2000
# Seconds before the first repetition of a request; they double up to the second number.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
# Seconds in which a server must accept a connection.
CONNECT_SECONDS = 10.0
# Seconds between two messages about the same wait.
SAY = 30.0
# Answers that may differ a moment later: a timeout, too many requests; from 500 on, errors of the server.
PASSING = (408, 429)
# Characters of a name of a server in a message.
NAMES = 200


class ServerUnavailable(OSError):
    """A server does not give what the run needs of it; the message says why, and what to do."""


class NoAnswer(Exception):
    """The server did not answer, or not with what was asked for; that may pass."""


class Patience:
    """How long a request is repeated.

    Args:
        seconds: after which it is given up.
    """

    def __init__(self, seconds: float) -> None:
        self._began, self._seconds, self._pause = time.monotonic(), seconds, FIRST_PAUSE

    @property
    def waited(self) -> float:
        """Seconds since the first attempt."""
        return time.monotonic() - self._began

    @property
    def ended(self) -> bool:
        """Whether the request is given up."""
        return self.waited > self._seconds

    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return pause


def model_arguments(verifier: VerifierSettings, name: str, dtype: str, max_model_len: int) -> list[str]:
    """Arguments of vLLM's OpenAI-compatible server with which it serves a verifier.

    Args:
        verifier: which model.
        name: under which it is served.
        dtype: in which it runs.
        max_model_len: tokens of the longest sequence, generated ones included.
    """
    return [
        *("--model", local_path(verifier.name_or_path)),
        *(("--revision", verifier.revision) if verifier.revision else ()),
        *(("--trust-remote-code",) if verifier.trust_remote_code else ()),
        *("--served-model-name", name),
        *("--dtype", dtype),
        *("--max-model-len", str(max_model_len)),
    ]


def command(arguments: Sequence[str]) -> str:
    """The shell command of a server, for messages."""
    return shlex.join(["python", "-m", MODULE, *arguments])


def card_of(models: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a server says of a model that it serves.

    Args:
        models: its list of models.
        name: of the model.

    Raises:
        ValueError: it does not serve that model; the message names those that it serves.
    """
    listed = models.get("data")
    cards = [card for card in listed if isinstance(card, dict)] if isinstance(listed, list) else []
    by_name = {str(card.get("id")): card for card in cards}
    if name not in by_name:
        raise ValueError(f"serves {printable(', '.join(by_name)[:NAMES]) or 'nothing'}")
    return by_name[name]


class VllmServer:
    """A server in a process of its own, on a free port of this machine.

    Args:
        python: interpreter of the environment with vLLM.
        arguments: of vLLM's server, without its address.
        log_file: gets what it prints.
        on_cpu: whether it is vLLM's CPU build.
        group: the settings that describe it, for messages.
    """

    def __init__(self, python: str, arguments: Sequence[str], log_file: Path, on_cpu: bool, group: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        place = ("--host", "127.0.0.1", "--port", str(port), "--uvicorn-log-level", "warning")
        self._command = [*module_command(python, MODULE), *arguments, *place]
        path = [str(files("speculators.assets")), *filter(None, [os.environ.get("PYTHONPATH")])]
        found = {"PYTHONPATH": os.pathsep.join(path)} if on_cpu else {}
        self._environment = ENVIRONMENT | (CPU_ENVIRONMENT if on_cpu else {}) | os.environ | found
        self._log, self._group = log_file, group
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        # Starts since the server last answered.
        self._starts = 0

    def ensure(self) -> None:
        """Start the server if it is not running.

        Raises:
            ServerUnavailable: it ended twice before it had answered; the message has the end of its log.
        """
        with self._lock:
            if self._process is not None:
                if self._process.poll() is None:
                    return
                log.info("vLLM ended with exit code %d", self._process.returncode)
                self._end()
            if self._starts == STARTS:
                raise ServerUnavailable(
                    f"{self._group}.python={self._command[0]}: vLLM ended {STARTS} times before it answered; the end of "
                    f"its log:\n{self._said()}"
                )
            self._starts += 1
            log.info("%s: starting vLLM", self._group)
            with self._log.open("ab") as output:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                )

    def answered(self) -> None:
        """Say that the server has answered a request."""
        self._starts = 0

    def stop(self) -> None:
        """End the server and the processes that it started."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            log.info("vLLM does not stop by itself within %d s and is killed", GRACE_SECONDS)
        # Its engine runs in a process of the same group, and may outlive it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-SHOWN:]
