"""Starts a vLLM server that delivers hidden states, and starts it again if it ends."""

import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from speculators.protocols.hidden_states import StatesUnavailable
from speculators.utils.process import module_command
from speculators.verifier.location import local_path
from speculators.verifier.settings import VerifierSettings

log = logging.getLogger(__name__)
MODULE = "vllm.entrypoints.openai.api_server"
# vLLM's connector, and the one in speculators/assets for its CPU build, which does not run vLLM's.
CONNECTOR, CPU_CONNECTOR, CPU_MODULE = "ExampleHiddenStatesConnector", "CpuHiddenStatesConnector", "vllm_cpu_connector"
# Of a server on a CPU: gigabytes of its caches, and threads that are not bound to the cores on which the training runs. One token
# more than the verifier has positions is allowed, since the generated one gets no states.
ENVIRONMENT = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
# Times that a server may end before it has answered.
STARTS = 2
# Seconds for it to stop by itself; characters of its log in a message.
GRACE_SECONDS, SHOWN = 10, 2000


def delivered(layer_ids: Sequence[int], num_layers: int) -> list[int]:
    """The layers that a server delivers for a draft, ascending: those that the draft reads, and the last one's output."""
    return sorted({*layer_ids, num_layers})


def name_of(layer_ids: Sequence[int]) -> str:
    """The name under which a server of some layers serves the verifier: the layers cannot be told from the states."""
    return f"layers-{'-'.join(map(str, layer_ids))}"


def arguments(
    verifier: VerifierSettings, dtype: str, layer_ids: Sequence[int], max_length: int, folder: Path | str, on_cpu: bool
) -> list[str]:
    """Arguments of vLLM's OpenAI-compatible server with which it delivers hidden states.

    Args:
        verifier: which model.
        dtype: in which it runs.
        layer_ids: ascending, without repeats; the number of layers names the last one's output.
        max_length: tokens of the longest document.
        folder: to which it writes.
        on_cpu: whether it is vLLM's CPU build.
    """
    speculative = {
        "method": "extract_hidden_states",
        "num_speculative_tokens": 1,
        "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": list(layer_ids)}},
    }
    transfer = {
        "kv_connector": CPU_CONNECTOR if on_cpu else CONNECTOR,
        **({"kv_connector_module_path": CPU_MODULE} if on_cpu else {}),
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"shared_storage_path": str(folder)},
    }
    return [
        *("--model", local_path(verifier.name_or_path)),
        *(("--revision", verifier.revision) if verifier.revision else ()),
        *(("--trust-remote-code",) if verifier.trust_remote_code else ()),
        *("--served-model-name", name_of(layer_ids)),
        *("--dtype", dtype),
        # The server generates one token after each document.
        *("--max-model-len", str(max_length + 1)),
        *("--speculative-config", json.dumps(speculative)),
        *("--kv-transfer-config", json.dumps(transfer)),
    ]


def command(arguments: Sequence[str]) -> str:
    """The shell command of a server, for messages."""
    return shlex.join(["python", "-m", MODULE, *arguments])


class StatesServer:
    """A server in a process of its own, on a free port of this machine.

    Args:
        python: interpreter of the environment with vLLM.
        arguments: of vLLM's server, without its address.
        log_file: gets what it prints.
        on_cpu: whether it is vLLM's CPU build.
    """

    def __init__(self, python: str, arguments: Sequence[str], log_file: Path, on_cpu: bool) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        place = ("--host", "127.0.0.1", "--port", str(port), "--uvicorn-log-level", "warning")
        self._command = [*module_command(python, MODULE), *arguments, *place]
        path = [str(files("speculators.assets")), *filter(None, [os.environ.get("PYTHONPATH")])]
        found = {"PYTHONPATH": os.pathsep.join(path)} if on_cpu else {}
        self._environment = ENVIRONMENT | (CPU_ENVIRONMENT if on_cpu else {}) | os.environ | found
        self._log = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        # Starts since the server last answered.
        self._starts = 0

    def ensure(self) -> None:
        """Start the server if it is not running.

        Raises:
            StatesUnavailable: it ended twice before it had answered; the message has the end of its log.
        """
        with self._lock:
            if self._process is not None:
                if self._process.poll() is None:
                    return
                log.info("vLLM ended with exit code %d", self._process.returncode)
                self._end()
            if self._starts == STARTS:
                raise StatesUnavailable(
                    f"verifier_states.python={self._command[0]}: vLLM ended {STARTS} times before it answered; the end of "
                    f"its log:\n{self._said()}"
                )
            self._starts += 1
            log.info("starting vLLM for the verifier's states")
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
        """Say that the server has delivered states."""
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
