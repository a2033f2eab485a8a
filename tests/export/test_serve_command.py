"""The printed command, executed by a shell: whatever a folder is called, the engine gets the words that were meant."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from speculators.export.engines import engine_version
from speculators.proposals import TokenProposalConfig

ENGINE = engine_version("vllm", "0.32.0")
APART = {
    "eagle3": {"method": "eagle3"},
    "peagle": {"method": "eagle3", "parallel_drafting": True},
    "dflash": {"method": "dflash"},
    "dspark": {"method": "dspark"},
}
NAMES = [
    "plain",
    "it's",
    'say "hi"',
    "two words",
    "$(touch injected)",
    "`touch injected`",
    "';touch injected;'",
    "\"}'; touch injected; #",
    "a&b|c>d<e",
    "back\\slash",
    "new\nline",
    "$HOME",
    "*",
    "~",
    "!!",
    "-rf",
    "ä\t€",
]


def draft_of(algorithm: str) -> dict[str, str]:
    """As much of a published config as the command depends on."""
    return {"speculators_model_type": algorithm}


@pytest.fixture
def vllm(tmp_path: Path) -> Path:
    """A folder for PATH with a `vllm` that writes down its arguments, each ended by a NUL."""
    script = tmp_path / "bin" / "vllm"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" > '{tmp_path}/arguments'\n")
    script.chmod(0o755)
    return script.parent


def executed(command: str, vllm: Path) -> list[str]:
    """The arguments that the command gives to vllm, run in an empty folder that it must leave empty."""
    empty = vllm.parent / "empty"
    empty.mkdir(exist_ok=True)
    environment = {"PATH": f"{vllm}:/usr/bin:/bin", "HOME": "/nowhere"}
    subprocess.run(["bash", "-c", command], check=True, cwd=empty, env=environment, timeout=20)
    assert list(empty.iterdir()) == []
    return (vllm.parent / "arguments").read_text().split("\0")[:-1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("algorithm", ENGINE.served())
def test_the_shell_passes_the_words(algorithm: str, name: str, vllm: Path) -> None:
    checkpoint, verifier = f"/drafts/{name}/checkpoint", f"/verifiers/{name}"
    command = ENGINE.serve_command(
        draft_of(algorithm), checkpoint, verifier, {"proposal_type": "greedy", "speculative_tokens": 3}
    )
    serve, model, *options = executed(command, vllm)
    assert serve == "serve" and model in (checkpoint, verifier)
    if model == verifier:
        option, value = options
        draft = json.loads(value)
        assert option == "--speculative-config" and draft["num_speculative_tokens"] == 3
        assert Path(draft["model"]).is_relative_to(checkpoint)
    else:
        assert options == []


@pytest.mark.parametrize("algorithm", ENGINE.served())
def test_verifier_and_draft_can_be_named_apart(algorithm: str, vllm: Path) -> None:
    """With what vLLM 0.32.0 makes of a published config by itself (SpeculatorsConfig.extract_vllm_speculative_config)."""
    words = (draft_of(algorithm), "org/draft", "org/verifier", {"proposal_type": "greedy", "speculative_tokens": 3})
    command = ENGINE.serve_command(*words, beside=True)
    serve, model, option, value = executed(command, vllm)
    assert (serve, model, option) == ("serve", "org/verifier", "--speculative-config")
    if algorithm in APART:
        assert json.loads(value) == {"model": "org/draft", "num_speculative_tokens": 3, **APART[algorithm]}
    else:  # in vLLM's own format, which is read from a folder inside
        assert command == ENGINE.serve_command(*words) and json.loads(value)["model"] == "org/draft/vllm"


@pytest.mark.parametrize("kind", sorted(TokenProposalConfig.registry or {}))
@pytest.mark.parametrize("algorithm", ENGINE.served())
def test_every_method_is_served_or_refused(algorithm: str, kind: str, vllm: Path) -> None:
    """With its own defaults, a tree is refused before training, and a chain has a command with the options that it needs."""
    proposal = TokenProposalConfig.model_validate({"proposal_type": kind})
    config = {"speculators_config": {"proposal_methods": [proposal.model_dump()]}}
    bad = [finding.key for finding in ENGINE.proposal_problems(config) if finding.bad]
    assert bad == (["speculators_config.proposal_methods[0].proposal_type"] if proposal.is_tree else [])
    if not proposal.is_tree:
        command = ENGINE.serve_command(draft_of(algorithm), "/drafts/one", "org/verifier", proposal.model_dump())
        _, _, *options = executed(command, vllm)
        asked = json.loads(options[1]) if options else {}
        assert proposal.serving_options().items() <= asked.items()


# As `vllm serve` parses its words; the options of the draft are checked as fields of vLLM's own configuration.
PARSER = """
import json, sys
from pydantic import TypeAdapter
from vllm.config import SpeculativeConfig
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser
serve, parser, read = ServeSubcommand(), FlexibleArgumentParser(), []
serve.subparser_init(parser.add_subparsers(dest="subparser"))
for words in json.load(sys.stdin):
    arguments = parser.parse_args(words)
    serve.validate(arguments)
    for key, value in (arguments.speculative_config or {}).items():
        TypeAdapter(SpeculativeConfig.__pydantic_fields__[key].annotation).validate_json(json.dumps(value), strict=True)
    read.append([arguments.model_tag, arguments.speculative_config])
json.dump(read, open(sys.argv[1], "w"))
"""


@pytest.mark.slow
@pytest.mark.skipif("SPECULATORS_VLLM_PYTHON" not in os.environ, reason="names no Python with vLLM")
def test_vllm_parses_every_command(tmp_path: Path) -> None:
    """Of every algorithm with every method that is no tree, from one name or two, with all options of serving."""
    extra = {"enable_adaptive_verification": True, "num_speculative_tokens_per_batch_size": [[1, 8, 3], [9, 64, 1]]}
    commands = [
        shlex.split(
            ENGINE.serve_command(draft_of(algorithm), "org/draft", "org/verifier", proposal.model_dump(), **options)
        )
        for algorithm in ENGINE.served()
        for kind in sorted(TokenProposalConfig.registry or {})
        if not (proposal := TokenProposalConfig.model_validate({"proposal_type": kind})).is_tree
        for options in ({}, {"beside": True, "serving_options": extra})
    ]
    done = subprocess.run(
        [os.environ["SPECULATORS_VLLM_PYTHON"], "-c", PARSER, "read.json"],
        input=json.dumps([words for _, *words in commands]),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads((tmp_path / "read.json").read_text())
    assert len(commands) > 20
    for (_, _, model, *options), (found_model, found_options) in zip(commands, read, strict=True):
        assert found_model == model and found_options == (json.loads(options[1]) if options else None)
