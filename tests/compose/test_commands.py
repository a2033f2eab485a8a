"""Commands that only print, and the ways in which a person calls them."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

import speculators
from speculators.cli.help import print_help
from speculators.cli.main import app

GROUPS = sorted(p.name for p in (Path(__file__).parents[2] / "conf").iterdir() if any(p.glob("*.yaml")))


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that lines are not wrapped."""
    monkeypatch.setenv("COLUMNS", "160")


def test_the_version_is_known() -> None:
    """By the package, and by both commands."""
    assert speculators.__version__ == version("speculators-hydra")
    for option in ("--version", "-h"):
        shown = CliRunner().invoke(app, [option])
        assert shown.exit_code == 0 and (speculators.__version__ in shown.output) == (option == "--version")


def test_help_describes_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its options and a sentence; each setting of the run with its value and comment."""
    print_help([])
    said = capsys.readouterr().out
    for group in GROUPS:
        line = re.search(rf"^  {group} +([a-z].+): \w+", said, re.MULTILINE)
        assert line is not None, group
    assert re.search(r"^  algorithm .*: eagle3, dflash", said, re.MULTILINE)
    assert re.search(r"^  dry_run=false\n +\w+", said, re.MULTILINE)


@pytest.mark.parametrize("group", GROUPS)
def test_help_describes_a_groups_settings(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option, and below each setting its meaning."""
    print_help([group])
    lines = capsys.readouterr().out.splitlines()
    options = [line.partition("=")[2] for line in lines if line.startswith(f"{group}=")]
    assert sorted(options) == sorted(f.stem for f in (Path(__file__).parents[2] / "conf" / group).glob("*.yaml"))
    for line, following in zip(lines, lines[1:], strict=False):
        if line.startswith(f"  {group}."):
            assert line.endswith(")") and following.startswith("      ") and following.strip()


def test_help_of_one_option_and_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that the command line adds is looked into; a name that is none has the nearest."""
    print_help(["algorithm=medusa"])
    said = capsys.readouterr().out
    assert "algorithm.num_heads=5   (integer ≥ 1)" in said and "eagle" not in said
    (tmp_path / "optimizer").mkdir()
    text = (Path(__file__).parents[2] / "conf/optimizer/adamw.yaml").read_text()
    (tmp_path / "optimizer" / "mine.yaml").write_text(text.replace("lr: ", "lr: 0.5 # "))
    print_help(["--config-dir", str(tmp_path), "optimizer=mine"])
    assert "optimizer.lr=0.5" in capsys.readouterr().out
    for wrong, nearest in (("algoritm", "algorithm"), ("algorithm=eagel", "eagle")):
        with pytest.raises(SystemExit):
            print_help([wrong])
        assert f"did you mean {nearest}?" in capsys.readouterr().err


def test_help_imports_neither_torch_nor_pydantic_and_survives_a_closed_pipe() -> None:
    """`--help | head` ends without a traceback."""
    code = (
        "import sys\nfrom speculators.cli.hydra_app import main\nsys.argv = ['train.py', '--help']\nmain()\n"
        "assert not {'torch', 'pydantic'} & sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "speculators", "train", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 1 and done.stderr == ""


def test_a_hub_that_cannot_be_reached_is_said_once(tmp_path: Path) -> None:
    """Within seconds, although the clients retry for half a minute: a verifier, and a data set."""
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    for typed in (["verifier=qwen3_8b"], ["data=hub", "data.name=some/set"]):
        command = [sys.executable, "-m", "speculators", "check", *typed]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=25)
        assert done.returncode == 2
        assert done.stderr.count("http://127.0.0.1:9 cannot be reached") == 1 and "Retry" not in done.stderr
        assert len(done.stderr.splitlines()) == 4, done.stderr
