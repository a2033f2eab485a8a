"""Data that cannot be used stops a run before anything is loaded: exit code 2, no folder, one message."""

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from transformers import LlamaConfig

from speculators.cli.hydra_app import Check
from speculators.cli.main import app
from speculators.composition.compose import compose, composed, pinned
from speculators.data.check import check, check_run
from speculators.data.template import ChatTemplate
from speculators.utils.messages import WrongInput
from tests.data.conftest import Settings
from tests.data.test_prepare import TALK, numbered

ROOT = Path(__file__).parents[2]
TWO = [numbered(1), numbered(2)]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([], {}, "data: the source is empty"),
        (["{broken", "{broken"], {}, r"data: no conversation can be used: 2 that are not JSON \(first: .*:1\)"),
        ([{"messages": TALK[:1]}] * 3, {}, "data: no conversation can be used: 3 without an answer"),
        ([numbered(1), numbered(1)], {}, "fewer than two different prompts"),
        ([numbered(n, "x" * 50) | {"messages": [{"role": "user", "content": "w " * 99}, TALK[1]]} for n in range(2)],
         {"max_length": 32}, "raise data.max_length"),
        ([{"prompt": "w " * 99}, {"prompt": "v " * 99}], {"max_length": 32, "regenerate": True}, "raise data.max_length"),
    ],
)  # fmt: skip
def test_what_cannot_be_used(
    rows: list[Any], changes: dict[str, Any], message: str, data: Settings, template: ChatTemplate
) -> None:
    """Each by its reason."""
    with pytest.raises(ValueError, match=message):
        check(data(*rows, **changes), template)


def test_what_can_be_used(data: Settings, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    """One usable line among broken ones and another prompt are enough; prompts alone for regeneration."""
    check(data("{broken", *TWO), template)
    check(data({"prompt": "One?"}, {"prompt": "Two?"}, regenerate=True), template)
    # Of a large source only the beginning is read.
    monkeypatch.setattr("speculators.data.check.ENOUGH", 2)
    settings = data(*(numbered(n) for n in range(9)))
    file = Path(settings.model_dump()["path"])
    file.write_bytes(gzip.compress(file.read_bytes() * 2000)[:-9])
    broken = file.rename(file.with_suffix(".jsonl.gz"))
    check(compose(["data=jsonl", f"data.path={broken}"]).data, template)


def test_the_embedded_conversations_are_the_embedded_verifiers(tmp_path: Path) -> None:
    """Another verifier answers itself, by the remedy that the message names; a copy of the embedded one is no other."""
    LlamaConfig(vocab_size=4096, max_position_embeddings=2048).save_pretrained(tmp_path)
    with pytest.raises(
        WrongInput, match="data.source='chat': these are answers of the embedded verifier, not of"
    ) as caught:
        compose([f"verifier.name_or_path={tmp_path}"])
    remedy = str(caught.value).partition("regenerate the answers: ")[2].splitlines()[0]
    assert remedy == "data=jsonl data.path=pkg://speculators.assets/prompts.jsonl data.regenerate=true"
    run = compose([f"verifier.name_or_path={tmp_path}", *remedy.split()])
    check(run.data, None)
    compose([f"verifier.name_or_path={tmp_path}", "data.regenerate=true"])


def test_a_dry_run_does_not_need_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run stops where its data set cannot be reached; its plan does without, but not where a folder is empty."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    run = compose(["data=hub", "data.name=some-org/some-data"])
    with pytest.raises(ValueError, match=r"data\.name: some-org/some-data cannot be loaded \(ConnectionError: "):
        check_run(run)
    check_run(run.model_copy(update={"dry_run": True}))
    empty = compose(["data=hub", f"data.name={tmp_path}"]).data
    with pytest.raises(ValueError, match="cannot be loaded"):
        check_run(run.model_copy(update={"dry_run": True, "data": empty}))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A file without a usable line."""
    file = tmp_path / "broken.jsonl"
    file.write_text("{broken\n" * 5)
    return file


@pytest.mark.parametrize("dry", ["true", "false"])
def test_a_run_stops_before_it_has_a_folder(dry: str, broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also a dry run: the callback that Hydra asks before it makes one."""
    for file, message in (
        (broken, "5 that are not JSON"),
        (broken.with_name("nope.jsonl"), "data.path: no file matches"),
    ):
        overrides = ["data=jsonl", f"data.path={file}", f"dry_run={dry}"]
        with composed(overrides) as config, pytest.raises(SystemExit) as stopped:
            Check().on_run_start(config)
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and said.startswith("1 problem; nothing was started:") and message in said


def test_a_pinned_run_stops(broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that was never started; one that was compares what it read."""
    pinned(["data=jsonl", f"data.path={broken}"], tmp_path / "run")
    with pytest.raises(SystemExit) as stopped:
        app(["run", str(tmp_path / "run")])
    assert stopped.value.code == 2 and "5 that are not JSON" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["run.yaml"]


@pytest.mark.slow
def test_the_commands_leave_nothing_behind(broken: Path, tmp_path: Path) -> None:
    """A run and a sweep: exit code 2."""
    folder = tmp_path / "run"
    given = ["data=jsonl", f"data.path={broken}", f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
    for more in ([], ["-m", "seed=1,2"]):
        command = [sys.executable, str(ROOT / "train.py"), *more, *given]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "1 problem; nothing was started" in done.stderr and "5 that are not JSON" in done.stderr
        assert "Traceback" not in done.stderr and sorted(tmp_path.iterdir()) == [broken]
