"""Passwords and tokens stay where they are kept: no file of a run or sweep, message, log or published draft shows one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from speculators.composition.compose import compose, pinned
from speculators.execution.again import load_again
from speculators.execution.launch import launch
from speculators.runfolder.folder import RunFolder
from speculators.utils.messages import RunFailed, WrongInput, stop
from speculators.utils.process import start_log
from speculators.utils.secrets import masked

SECRET = "Xq7vR2mK9pLw4TzB8nYc3HdF6gJs1A"
HUB = f"hf_{SECRET}aBcD"
FORMS = [
    HUB, f"sk-proj-{SECRET}", f"ghp_{SECRET}", f"github_pat_{SECRET}", f"glpat-{SECRET}", f"xoxb-{SECRET}",
    "AKIAIOSFODNN7EXAMPLE", f"AIza{SECRET}aaaaa", f"eyJhbGciOiJIUzI1NiJ9.{SECRET}.{SECRET}",
]  # fmt: skip
ENVIRONMENT = {
    "HF_TOKEN": HUB,
    "WANDB_API_KEY": SECRET,
    "DB_PASSWORD": "correct horse",
    "HTTPS_PROXY": f"http://me:{SECRET}@proxy",
}
TYPED = {
    "data URL": ["data=jsonl", f"data.path=https://me:{SECRET}@host/d.jsonl"],
    "data set URL": ["data=hub", f"data.name=https://me:{SECRET}@huggingface.co/set"],
    "verifier URL": ["verifier=hf", f"verifier.name_or_path=https://oauth2:{SECRET}@host/model"],
    "source of a mixture": ["data=mixture", f"data.sources=[{{path:'s3://key:{SECRET}@bucket/a.jsonl'}}]"],
    "token in a query": ["data=jsonl", f"data.path='https://host/d.jsonl?access_token={SECRET}'"],
    "signed URL": ["data=jsonl", f"data.path='https://host/d.jsonl?X-Amz-Signature={SECRET}'"],
    "token of the environment": ["tracker.project=${oc.env:HF_TOKEN}"],
    "password of the environment": ["data.chat_template_kwargs={user:${oc.env:DB_PASSWORD}}"],
    "key by its name": [f"data.chat_template_kwargs={{api_key:{SECRET}}}"],
    "nested password": [f"data.chat_template_kwargs={{a:{{password:{SECRET}}}}}"],
    "variable of Hydra's": [f"+hydra.job.env_set.WANDB_API_KEY={SECRET}"],
    "number": ["optimizer.lr=${oc.env:HF_TOKEN}"],
    **{f"{form[:4]} token": [f"tracker.project={form}"] for form in FORMS},
}


def shown(text: str) -> list[str]:
    """The planted secrets that a text shows."""
    return [secret for secret in (SECRET, "correct horse", "AKIAIOSFODNN7EXAMPLE") if secret in text]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("kind", TYPED)
def test_a_setting_holds_no_secret(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused with key and remedy, without being shown."""
    with pytest.raises(WrongInput) as refused:
        compose(TYPED[kind])
    with pytest.raises(SystemExit):
        stop(refused.value.messages)
    text = capsys.readouterr().err
    assert not shown(text) and "***" in text
    assert kind == "number" or "set it where libraries read it" in text


def test_neither_does_a_run_yaml(tmp_path: Path) -> None:
    pinned(["data=jsonl", "data.path=https://host/d.jsonl"], tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(file.read_text().replace("https://host", f"https://me:{SECRET}@host"))
    with pytest.raises(WrongInput, match="data.path='https://\\*\\*\\*@host/d.jsonl': holds a secret"):
        load_again(tmp_path)


@pytest.mark.parametrize("project", ["..", "../up", "/tmp/x", "a/b", "a\\\\b", "."])
def test_a_project_is_no_path(project: str) -> None:
    """Trackers that write files would leave the run's folder."""
    with pytest.raises(WrongInput, match="tracker.project: must be a name without slashes"):
        compose([f"tracker.project={project}"])


@pytest.mark.usefixtures("environment")
def test_a_failure_shows_no_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever libraries say in their errors and logs."""
    import logging

    texts = [
        *ENVIRONMENT.values(),
        *FORMS,
        f"https://me:{SECRET}@host",
        f"Authorization: Bearer {SECRET}",
        f"password={SECRET}",
    ]

    def run(folder: Path) -> float:
        for text in texts:
            logging.getLogger("another.package").warning("sent %s", text)
        try:
            raise ConnectionError(" ".join(texts))
        except ConnectionError:
            logging.getLogger("another.package").exception("failed")
            raise

    start_log(tmp_path / "train.log")
    with pytest.raises(RunFailed):
        launch(tmp_path, run)
    own = RunFolder(tmp_path)
    said = own.failed.read_text() + own.log.read_text() + "".join(capfd.readouterr())
    assert not shown(said) and said.count("ConnectionError") >= 2 and "sent ***" in said


@pytest.mark.parametrize(
    "text",
    [
        "proposal.speculative_tokens=5", "max_new_tokens: 256", "a" * 40, "pkg://speculators.assets/tiny", "file:///home/me/x",
        "git@github.com:org/repository", "https://host:8080/path@2?page=3", "verifier.name_or_path=org/sk-conversations-of-2024",
        "from huggingface_hub import hf_hub_download", "KeyError: 'lm_head'", "pad_token=</s> eos_token: <|end|>", "basic idea",
        "trainer.keep_last=1", "token 0 of 12", "d2t[i] key: value", "secret: ", "tokens/s", "C:\\Users\\me",
    ],
)  # fmt: skip
def test_other_texts_stay(text: str) -> None:
    assert masked(text) == text


@pytest.mark.slow
def test_no_file_of_a_run_or_a_sweep_shows_a_secret(tmp_path: Path) -> None:
    """Of runs whose environment has secrets, which succeed, fail and are refused; nothing refused leaves a file."""
    short = [
        "trainer.max_steps=1",
        "data.max_conversations=60",
        "evaluation.num_prompts=1",
        "evaluation.max_new_tokens=4",
    ]
    short += ["launch.num_threads=1", "algorithm=medusa"]
    (tmp_path / "broken").mkdir()

    def train(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "speculators", "train", *words, *short]
        environment = os.environ | ENVIRONMENT | {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    codes = [train("-m", "seed=0,1", "hydra.sweep.dir=sweep"), train("hydra.run.dir=run")]
    assert [code for code, _ in codes] == [0, 0], codes
    before = sorted(tmp_path.rglob("*"))
    single, several = ["hydra.run.dir=other"], ["-m", "seed=2,3", "hydra.sweep.dir=other"]
    for kind, more in (
        ("variable of Hydra's", single),
        ("variable of Hydra's", several),
        ("data URL", single),
        ("token of the environment", several),
    ):
        code, said = train(*TYPED[kind], *more)
        assert code == 2 and not shown(said), said
    assert sorted(tmp_path.rglob("*")) == before
    report = [sys.executable, "-m", "speculators", "report", "sweep", "run"]
    subprocess.run(report, env=os.environ | ENVIRONMENT, cwd=tmp_path, check=True, timeout=100)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert not shown(file.read_bytes().decode("latin-1")), file
    assert json.loads((tmp_path / "run" / "DONE").read_text())
