"""The process that a run starts for its states: with vLLM's arguments, started again when it ends, and not left behind."""

import os
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from speculators.composition.compose import compose
from speculators.data.vllm_server import ServerUnavailable, VllmServer
from speculators.runfolder.keys import weights_key
from speculators.runfolder.rights import allow, as_typed, claimed
from speculators.utils.messages import WrongInput

MODULE = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
print("arguments:", *sys.argv[1:], flush=True)
if "--fail" in sys.argv:
    sys.exit("no such model")
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
# Starts a server, says which process it is, and waits.
RUN = """
import sys, time
from pathlib import Path
from speculators.data.vllm_server import VllmServer
server = VllmServer(sys.executable, [], Path(sys.argv[1]), False, "verifier_states")
server.ensure()
print(server._process.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in vLLM's place, which says its process id."""
    file = tmp_path / "path" / "vllm" / "entrypoints" / "openai" / "api_server.py"
    file.parent.mkdir(parents=True)
    file.write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))


def process_of(server: VllmServer) -> int:
    """The id that the server says, once it answers."""
    for _ in range(500):
        try:
            connection = HTTPConnection(server.url.removeprefix("http://"), timeout=5)
            connection.request("GET", "/health")
            return int(connection.getresponse().read())
        except OSError:
            time.sleep(0.02)
    raise AssertionError("it does not answer")


def alive(process: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.usefixtures("vllm")
def test_it_is_started_again_where_it_was(tmp_path: Path) -> None:
    """On the same port, in another process; afterwards there is none."""
    server = VllmServer(sys.executable, ["--model", "some/model"], tmp_path / "log", True, "verifier_states")
    server.ensure()
    first = process_of(server)
    server.ensure()
    assert process_of(server) == first
    os.kill(first, signal.SIGKILL)
    while alive(first):
        time.sleep(0.01)
    server.answered()
    server.ensure()
    second = process_of(server)
    server.stop()
    assert first != second and not alive(second)
    assert "arguments: --model some/model --host 127.0.0.1 --port" in (tmp_path / "log").read_text()


@pytest.mark.usefixtures("vllm")
def test_one_that_does_not_start_is_given_up(tmp_path: Path) -> None:
    """After a second attempt, with what it said."""
    server = VllmServer(sys.executable, ["--fail"], tmp_path / "log", False, "verifier_states")
    with pytest.raises(ServerUnavailable, match="vLLM ended 2 times before it answered(?s:.*)no such model"):
        for _ in range(500):
            server.ensure()
            time.sleep(0.02)
    assert (tmp_path / "log").read_text().count("arguments:") == 2


@pytest.mark.usefixtures("vllm")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not end it")
def test_it_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    server = int(run.stdout.readline())
    assert alive(server)
    run.kill()
    run.wait()
    run.stdout.close()
    for _ in range(500):
        if not alive(server):
            return
        time.sleep(0.02)
    os.kill(server, signal.SIGKILL)
    raise AssertionError("it runs on")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["url=http://host:8000"], "needs folder, its shared_storage_path as this machine sees it"),
        (["url=http://host:8000", "folder=/tmp", "python=/bin/python"], "are for a server that the run starts"),
        (["url=host:8000", "folder=/tmp"], "should be an address as http://HOST:PORT"),
        (["url=http://me:secret@host:8000", "folder=/tmp"], "holds a secret"),
        (["timeout=0"], "verifier_states.timeout"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(WrongInput, match=message):
        compose(["verifier_states=served", *(f"verifier_states.{override}" for override in overrides)])


def test_processes_do_not_start_a_server_each() -> None:
    with pytest.raises(WrongInput, match=r"verifier_states.url=None: .* would start a server each"):
        compose(["verifier_states=served", "launch=torchrun"])
    compose(
        ["verifier_states=served", "launch=torchrun", "verifier_states.url=http://h:1", "verifier_states.folder=/f"]
    )


def test_a_file_grants_no_server(tmp_path: Path) -> None:
    """A run.yaml of somebody else starts no program and sends no data to another machine, unless the command says so."""
    started = compose(["verifier_states=served", "verifier_states.python=/any/program", "verifier_states.args=--x 1"])
    given = compose(["verifier_states=served", "verifier_states.url=http://h:1", f"verifier_states.folder={tmp_path}"])
    assert claimed(started) == {"verifier_states.python": "/any/program", "verifier_states.args": "--x 1"}
    assert claimed(given) == {"verifier_states.url": "http://h:1", "verifier_states.folder": str(tmp_path)}
    for run in (started, given):
        with pytest.raises(WrongInput, match="a file cannot grant this"):
            allow(run, [], tmp_path / "run.yaml")
        assert allow(run, as_typed(claimed(run)), tmp_path / "run.yaml") == run


def test_the_place_of_a_server_does_not_decide_the_weights(tmp_path: Path) -> None:
    """Its arguments may, such as a quantisation; states computed in process differ by rounding."""
    served = compose(["verifier_states=served"])
    same = compose(["verifier_states=served", "verifier_states.url=http://h:1", f"verifier_states.folder={tmp_path}"])
    other = compose(["verifier_states=served", "verifier_states.args=--quantization fp8"])
    assert weights_key(served) == weights_key(same) != weights_key(other)
    assert weights_key(served) != weights_key(compose([]))
