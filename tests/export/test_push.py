"""`speculators push`: every byte arrives, also after a lost connection; nothing private does; wrong input has one message."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants

from speculators.cli.main import app
from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.execution.machine import hub_knows_who_pushes
from speculators.export.model_card import add_result
from speculators.export.publish import publish
from speculators.export.push import push_finished
from speculators.model import SpeculatorModel
from speculators.runfolder.folder import RunFolder
from speculators.runfolder.keys import result_key
from speculators.runfolder.result import EvaluationResult
from speculators.runfolder.rights import allow
from speculators.runfolder.run_yaml import load, write_pin
from speculators.settings.run_config import RunConfig
from speculators.sweep.check import pushed_to_one
from speculators.utils.digest import of_file
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts

from .conftest import EAGLE, EAGLE3
from .hub_server import TOKEN, Hub, serving

# The client's own: it gives a file to its HTTP library by a name that the library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = "someone/a-draft"
PUSH = ["--license=apache-2.0", "--base-model=org/verifier-8b"]
RESULT = EvaluationResult(
    objective=2.61, acceptance_length=2.61, acceptance_per_position=[0.8, 0.5, 0.31], speculative_tokens=3, num_prompts=4,
    max_new_tokens=16, drafts=100, drafted=300, accepted=161, generated=261, matches_plain_decoding=True, ties=0, lossy=None,
    tokens_per_second=300.2, plain_tokens_per_second=120.0, acceptance_length_interval=(2.4, 2.823),
)  # fmt: skip


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        yield server


@pytest.fixture
def client(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client in this process, with a token, sent to the server."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def measured(
    make_run: Callable[..., RunConfig],
    make_draft: Callable[[RunConfig], SpeculatorModel],
    facts: VerifierFacts,
    tmp_path: Path,
) -> Callable[..., Path]:
    """The folder of a finished run with an untrained draft, of which a result is recorded."""

    def make(algorithm: dict[str, Any] = EAGLE3, result: EvaluationResult | None = RESULT, **export: Any) -> Path:
        run, folder = make_run(algorithm, **export), tmp_path / "run"
        write_pin(run, folder)
        publish(make_draft(run), run, facts, folder)
        if result is not None:
            own = RunFolder(folder)
            values = {key: v for key, v in asdict(result).items() if key not in ("prompts", "tokens", "rounds")}
            own.result.write_text(json.dumps(values))
            own.acceptance_plot.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100)
            add_result(folder, result, run)
        return folder

    return make


def pushed(*words: str) -> int:
    """The exit code of a push in this process."""
    try:
        app(["push", *words], standalone_mode=False)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def command(hub_url: str, *words: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, as a person starts it; with hf_xet if a folder for its cache is given."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    given = {"HF_ENDPOINT": hub_url, "HF_HUB_DISABLE_XET": str(int(home is None)), "HF_TOKEN": TOKEN}
    given["HF_HOME"] = str(home or "/nonexistent")
    return subprocess.run(
        [sys.executable, "-m", "speculators", *words], env=kept | given, capture_output=True, text=True, timeout=200
    )


def same_bytes(there: dict[str, bytes], folder: Path) -> None:
    """A repository has the files of a published folder and no other; card and config are written for it."""
    here = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert there.keys() == here.keys()
    assert {name for name in here if here[name] != there[name]} <= {"README.md", "config.json"}


def test_a_lost_connection_is_completed_by_the_same_command(measured: Callable[..., Path], hub: Hub) -> None:
    """Cut in the middle of the tensors, and the repetition refused: nothing is in the repository. Then cut once more."""
    folder = measured()
    size = (folder / "checkpoint" / "model.safetensors").stat().st_size
    assert size > 100_000
    hub.cuts, hub.refused = [size // 2], True
    first = command(hub.url, "push", str(folder), REPO, *PUSH)
    assert first.returncode == 1 and hub.cuts == [] and hub.repos == {REPO: {}}
    assert first.stderr.startswith(f"not pushed: {REPO}: Error while uploading 'model.safetensors' to the Hub.")
    assert f"repeat it with `speculators push {folder} {REPO} {' '.join(PUSH)}`" in first.stderr
    assert "Traceback" not in first.stderr and TOKEN not in first.stderr

    hub.cuts, hub.refused = [size // 3], False
    again = command(hub.url, "push", str(folder), REPO, *PUSH)
    assert (again.returncode, hub.cuts) == (0, []), again.stderr
    assert again.stdout == f"pushed: {hub.url}/{REPO}\n"
    same_bytes(hub.repos[REPO], folder / "checkpoint")
    # The plot, which had arrived before, was not sent again.
    assert len(hub.received) == len(set(hub.received)) == 2


@pytest.mark.slow
def test_a_host_that_is_gone_and_comes_back(measured: Callable[..., Path]) -> None:
    """The client gives up after its own repetitions; the same command to the Hub that is there again completes the push."""
    folder = measured()
    with serving() as hub:
        hub.cuts = [50_000] * 6
        assert command(hub.url, "push", str(folder), REPO, *PUSH).returncode == 1
    gone = command(hub.url, "push", str(folder), REPO, *PUSH)
    assert gone.returncode == 1 and f"not pushed: {hub.url} cannot be reached: " in gone.stderr
    with serving() as hub:
        assert command(hub.url, "push", str(folder), REPO, *PUSH).returncode == 0
        same_bytes(hub.repos[REPO], folder / "checkpoint")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("hf_xet") is None, reason="hf_xet is not installed")
def test_with_the_clients_own_storage(measured: Callable[..., Path], hub: Hub, tmp_path: Path) -> None:
    """With hf_xet, which huggingface_hub uses where it is installed; the connection is lost at the commit."""
    folder = measured()
    hub.xet, hub.lost_commits = f"local://{tmp_path / 'storage'}", 1
    words = ("push", str(folder), REPO, *PUSH)
    first = command(hub.url, *words, home=tmp_path)
    assert first.returncode == 1 and first.stderr.startswith(f"not pushed: {REPO}: "), first.stderr
    assert hub.lost_commits == 0 and hub.repos == {REPO: {}}
    again = command(hub.url, *words, home=tmp_path)
    assert again.returncode == 0, again.stderr
    there, checkpoint = hub.repos[REPO], folder / "checkpoint"
    large = {name for name in there if name.endswith((".safetensors", ".png"))}
    assert {name: there[name].decode() for name in large} == {name: of_file(checkpoint / name) for name in large}
    same_bytes({**there, **{name: (checkpoint / name).read_bytes() for name in large}}, checkpoint)
    assert any((tmp_path / "storage").rglob("*")) and hub.received == []


@pytest.mark.slow
def test_a_run_pushes_what_it_measured(hub: Hub, tmp_path: Path) -> None:
    """The connection is lost: the run is finished all the same, and the command that it prints completes the push."""
    folder = tmp_path / "run"
    short = [
        "trainer.max_steps=1",
        "data.max_conversations=60",
        "evaluation.num_prompts=2",
        "evaluation.max_new_tokens=8",
    ]
    short += ["algorithm=eagle", "tracker=none", "launch.num_threads=1", f"hydra.run.dir={folder}"]
    asked = [f"export.hub_repo={REPO}", "export.license=apache-2.0", "export.base_model=someone/tiny"]
    hub.cuts, hub.refused = [100_000], True
    done = command(hub.url, "train", *short, *asked)
    assert done.returncode == 0 and (folder / "DONE").exists() and hub.repos == {REPO: {}}, done.stdout + done.stderr
    log = (folder / "train.log").read_text()
    assert "the run is finished, but its draft was not pushed: " in log
    hub.refused = False
    words = shlex.split(log.partition("repeat it with `speculators ")[2].partition("`")[0])
    assert words == ["push", str(folder), REPO]
    again = command(hub.url, *words)
    assert again.returncode == 0, again.stderr
    same_bytes(hub.repos[REPO], folder / "checkpoint")
    length = json.loads((folder / "result.json").read_text())["acceptance_length"]
    assert f"| acceptance length | **{length:.2f}** (95 %: " in hub.repos[REPO]["README.md"].decode()


@pytest.mark.usefixtures("client")
def test_large_files_in_parts(measured: Callable[..., Path], hub: Hub) -> None:
    """As the Hub asks for files above some size; a part whose connection is cut is sent again by the client."""
    folder = measured(license="apache-2.0", base_model="org/verifier-8b")
    hub.part_size, hub.cuts = 2**16, [40_000]
    assert pushed(str(folder), REPO) == 0 and hub.cuts == []
    same_bytes(hub.repos[REPO], folder / "checkpoint")


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("algorithm", [EAGLE, EAGLE3], ids=["eagle", "eagle3"])
def test_what_is_pushed(algorithm: dict[str, Any], measured: Callable[..., Path], verifier: Path, hub: Hub) -> None:
    """Licence, base model, result with its interval and definition, plot, both commands; no path of this machine."""
    config = json.loads((verifier / "config.json").read_text()) | {"_name_or_path": "org/verifier-8b"}
    (verifier / "config.json").write_text(json.dumps(config))
    folder = measured(algorithm)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert pushed(str(folder / "checkpoint"), REPO, "--license=llama3.1") == 0
    there = hub.repos[REPO]
    for name, content in there.items():
        assert str(folder.parent).encode() not in content, name
    card = ModelCard(there["README.md"].decode())
    front = card.data.to_dict()
    assert (front["license"], front["base_model"]) == ("llama3.1", "org/verifier-8b")
    for part in (
        "| acceptance length | **2.61** (95 %: 2.40 to 2.82) |", "1 + accepted / drafts", "(acceptance.png)", "**Data:** `chat`"
    ):  # fmt: skip
        assert part in card.text
    (block,) = [text.partition("```")[0].splitlines() for text in card.text.split("```bash\n")[1:]]
    options = '"num_speculative_tokens": 3'
    assert (
        block
        == {
            "eagle3": [
                f"vllm serve {REPO}",
                f'vllm serve org/verifier-8b --speculative-config \'{{"method": "eagle3", "model": "{REPO}", {options}}}\'',
            ],
            "eagle": [
                f"hf download {REPO} --local-dir ./a-draft",
                "vllm serve org/verifier-8b --speculative-config "
                f'\'{{"method": "eagle", "model": "./a-draft/vllm", {options}}}\'',
            ],
        }[algorithm["name"]]
    )
    pulled = folder.parent / "pulled"
    for name, content in there.items():
        (pulled / name).parent.mkdir(parents=True, exist_ok=True)
        (pulled / name).write_bytes(content)
    assert SpeculatorModelConfig.from_pretrained(pulled).speculators_config.verifier.name_or_path == "org/verifier-8b"
    drafts = [SpeculatorModel.from_pretrained(place).state_dict() for place in (pulled, folder / "checkpoint")]
    assert all(torch.equal(drafts[0][name], drafts[1][name]) for name in drafts[1])
    assert load(pulled).run.export.hub_repo is None
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.usefixtures("client")
def test_a_second_push_replaces_the_first(measured: Callable[..., Path], hub: Hub) -> None:
    """Of the same draft it changes nothing; tensors of an earlier draft, which engines would read, are removed."""
    folder = measured()
    assert pushed(str(folder), REPO, *PUSH) == 0
    first = dict(hub.repos[REPO])
    hub.repos[REPO] |= {"model-00001-of-00002.safetensors": b"old", "notes.txt": b"kept", "README.md": b"edited"}
    assert pushed(str(folder), REPO, *PUSH) == 0
    assert hub.repos[REPO] == first | {"notes.txt": b"kept"}
    assert len(hub.received) == 2


@pytest.mark.usefixtures("client")
def test_another_model_is_not_replaced(
    measured: Callable[..., Path], hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as the verifier's own repository, typed by mistake."""
    hub.repos[REPO] = theirs = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"8B"}
    assert pushed(str(measured()), REPO, *PUSH) == 2
    assert hub.repos == {REPO: theirs} and "it holds a model that is no draft" in capsys.readouterr().err


def test_a_dry_run_shows_files_and_front_matter(
    measured: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a token, and without a request."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    folder = measured()
    assert pushed(str(folder), REPO, *PUSH, "--dry-run") == 0
    said = capsys.readouterr().out
    size = (folder / "checkpoint" / "model.safetensors").stat().st_size
    assert (
        f"{size:,} bytes  model.safetensors\n" in said
        and " bytes  README.md\n" in said
        and " bytes  run.yaml\n" in said
    )
    assert "license: apache-2.0\nbase_model: org/verifier-8b\n" in said


WRONG = [
    (["nobody", *PUSH], 2, "REPO=nobody: must be a repository of the Hub, as OWNER/NAME"),
    (["a/b/c", *PUSH], 2, "REPO=a/b/c: must be a repository of the Hub, as OWNER/NAME"),
    (["some one/x", *PUSH], 2, "REPO=some one/x: must be a name on the Hub"),
    ([REPO, PUSH[1]], 2, "export.license: the model card needs the draft's licence"),
    ([REPO, PUSH[0]], 2, "is a folder of this machine whose config.json has no name on the Hub; set that"),
    ([REPO, "--license=Apache 2", PUSH[1]], 2, "must be a licence as the Hub abbreviates it, such as apache-2.0"),
    ([REPO, PUSH[0], "--base-model=a b"], 2, "must be a name on the Hub, such as Qwen/Qwen3-8B"),
    ([REPO, "--license=my-own", PUSH[1]], 1, '"license" must be one of the known ones'),
]


@pytest.mark.usefixtures("client")
def test_wrong_names(measured: Callable[..., Path], hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """One message with the remedy, and nothing is pushed."""
    folder = measured()
    for words, code, message in WRONG:
        assert pushed(str(folder), *words) == code
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 2, said
    assert hub.repos == {REPO: {}}


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("kind", ["no draft", "no result", "damaged", "no run.yaml", "secret", "path", "link"])
def test_a_folder_that_cannot_be_pushed(
    kind: str, measured: Callable[..., Path], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message with the file, exit code 2, and no request."""
    folder = measured(result=None if kind == "no result" else RESULT)
    checkpoint, expected = folder / "checkpoint", kind
    match kind:
        case "no draft":
            folder, expected = tmp_path, "config.json"
        case "no result":
            expected = f"it was not measured, and the model card needs a result; `speculators run {folder}` completes"
        case "damaged":
            file = checkpoint / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-1] + b"\x01")
            expected = "its SHA-256 differs from the one in manifest.json"
        case "no run.yaml":
            (checkpoint / "run.yaml").unlink()
            expected = "it has no run.yaml"
        case "secret":
            (checkpoint / "notes.md").write_text(f"my token is {TOKEN}")
            expected = "notes.md: it holds a secret; remove it"
        case "path":
            config = json.loads((checkpoint / "config.json").read_text()) | {"_name_or_path": "/home/me/draft"}
            (checkpoint / "config.json").write_text(json.dumps(config))
            expected = "_name_or_path=/home/me/draft is a path of this machine"
        case "link":
            (checkpoint / "notes.md").symlink_to(tmp_path / "run" / "run.yaml")
            expected = "the path leaves the folder"
    assert pushed(str(folder), REPO, *PUSH) == 2
    said = capsys.readouterr().err
    assert said.startswith("1 problem") and expected in said and hub.repos == {}, said


@pytest.mark.usefixtures("client")
def test_a_failed_push_does_not_fail_the_run(
    measured: Callable[..., Path], hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the reason and the command, which then pushes."""
    folder = measured(license="apache-2.0", base_model="org/verifier-8b", hub_repo=REPO)
    run = load(folder).run
    with monkeypatch.context() as offline, caplog.at_level("INFO"):
        offline.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        push_finished(folder, run)
    said = caplog.text
    assert "its draft was not pushed: http://127.0.0.1:9 cannot be reached" in said
    command = said.partition("repeat it with `speculators push ")[2].partition("`")[0]
    assert hub.repos == {} and pushed(*shlex.split(command)) == 0
    same_bytes(hub.repos[REPO], folder / "checkpoint")
    hub.repos.clear()
    with caplog.at_level("INFO"):
        push_finished(folder, run)
    assert f"pushed: {hub.url}/{REPO}" in caplog.text
    same_bytes(hub.repos[REPO], folder / "checkpoint")


def test_what_a_push_needs_is_decided_before_a_run_starts(
    measured: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Licence, name of the verifier, a result, and a token; a run.yaml cannot ask for a push."""
    asked = [f"export.hub_repo={REPO}"]
    with pytest.raises(WrongInput) as refused:
        compose([*asked, "evaluation.num_prompts=0"])
    keys = [message.partition("=")[0] for message in refused.value.messages]
    assert keys == ["evaluation.num_prompts", "export.license", "export.base_model"]
    with pytest.raises(WrongInput, match="export.hub_repo: must be a repository of the Hub, as OWNER/NAME"):
        compose(["export.hub_repo=draft"])
    run = compose([*asked, "export.license=apache-2.0", "export.base_model=org/verifier"])
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    for token, found in ((None, [f"export.hub_repo={REPO}: there is no token for the Hub"]), (TOKEN, [])):
        monkeypatch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        assert [message.partition(": set HF_TOKEN")[0] for message in hub_knows_who_pushes(run)] == found
    file = tmp_path / "run.yaml"
    with pytest.raises(
        WrongInput, match="a file cannot grant this; add export.hub_repo=someone/a-draft to the command"
    ):
        allow(run, [], file)
    assert allow(run, ["export.hub_repo=null"], file).export.hub_repo is None
    assert allow(run, asked, file) == run
    other = run.model_copy(update={"export": run.export.model_copy(update={"hub_repo": "someone/another"})})
    assert pushed_to_one([run, other]) == [] and result_key(run) == result_key(other)
    assert pushed_to_one([run, other, run])[0].startswith(f"trial 2: export.hub_repo={REPO}: trial 0 pushes there too")


@pytest.mark.usefixtures("client")
def test_who_may_push(measured: Callable[..., Path], hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                      capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """No token, one that may not write, and a Hub that is not there."""
    folder = measured()
    monkeypatch.setenv("HF_TOKEN", "hf_" + "b" * 36)
    assert pushed(str(folder), REPO, *PUSH) == 1
    said = capsys.readouterr().err
    assert "401" in said and "The token must be one that may write there: set HF_TOKEN" in said and "b" * 36 not in said
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert pushed(str(folder), REPO, *PUSH) == 2
    assert "there is no token for the Hub: set HF_TOKEN in the environment" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert pushed(str(folder), REPO, *PUSH) == 1
    said = capsys.readouterr().err
    assert said.startswith("not pushed: http://127.0.0.1:9 cannot be reached: ") and len(said.splitlines()) == 2
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pushed(str(folder), REPO, *PUSH) == 1
    assert "cannot be reached: HF_HUB_OFFLINE is set" in capsys.readouterr().err
