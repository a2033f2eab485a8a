"""A run's folder holds one run's weights: other data, settings or seeds do not go on from them, nor publish them."""

import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner

from speculators.cli.launch import launch
from speculators.cli.main import app
from speculators.composition.compose import compose, pinned
from speculators.execution.free import check_free
from speculators.runfolder.folder import RunFolder
from speculators.utils.messages import WrongInput

ROWS = Path(str(files("speculators.assets"))).joinpath("chat.jsonl").read_text().splitlines(True)
WEIGHTS = "checkpoint/model.safetensors"


def overrides(folder: Path) -> list[str]:
    """Of a run whose data lies in a folder."""
    small = [
        "algorithm=eagle",
        "data=jsonl",
        f"data.path={folder / 'data.jsonl'}",
        "data.max_length=128",
        "tracker=none",
    ]
    return [*small, "trainer.batch_size=1", "trainer.max_steps=2", "evaluation.num_prompts=0", "launch.num_threads=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, and the data that it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "data.jsonl").write_text("".join(ROWS[:100]))
    pinned(overrides(folder), folder / "run")
    launch(folder / "run")
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, whose data may be changed; the place of the data is none of the run's identity."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    edit(tmp_path / "run" / "run.yaml", str(trained), str(tmp_path))
    return tmp_path


def edit(file: Path, old: str, new: str) -> None:
    """Replace a text that is there."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def again(folder: Path) -> tuple[int, str]:
    """`speculators run`: its exit code and what it says."""
    result = CliRunner().invoke(app, ["run", str(folder / "run")])
    return result.exit_code, result.output


def test_the_same_run_elsewhere_goes_on(folder: Path) -> None:
    """It publishes the same weights again."""
    before = (folder / "run" / WEIGHTS).read_bytes()
    edit(folder / "run" / "run.yaml", "save_every: null", "save_every: 2")
    assert again(folder)[0] == 0
    assert (folder / "run" / WEIGHTS).read_bytes() == before


def test_other_data_does_not_go_on(folder: Path) -> None:
    """Neither by the same command, nor after the old hash was taken out of run.yaml, nor without one."""
    before = (folder / "run" / WEIGHTS).read_bytes()
    (folder / "data.jsonl").write_text("".join(ROWS[100:200]))
    with pytest.raises(WrongInput, match="trained with another data"):
        check_free(compose(overrides(folder)), folder / "run")
    file = folder / "run" / "run.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("  data: ")))
    RunFolder(folder / "run").done.unlink()  # a finished run is not resumed
    code, output = again(folder)
    assert code == 2 and "trained with another data" in output and "train in a new folder" in output
    file.unlink()
    with pytest.raises(WrongInput, match="trained with another data"):
        check_free(compose(overrides(folder)), folder / "run")
    assert (folder / "run" / WEIGHTS).read_bytes() == before


def test_another_number_of_processes_is_named(folder: Path) -> None:
    """Its steps would have another number of sequences."""
    with pytest.raises(WrongInput, match="another run, with another number of processes;"):
        check_free(compose([*overrides(folder), "launch=torchrun", "launch.num_processes=2"]), folder / "run")


@pytest.mark.parametrize(
    ("line", "changed", "key"),
    [
        ("    lr: 0.02\n", "    lr: 0.03\n", "optimizer.lr"),
        ("  seed: 0\n", "  seed: 5\n", "seed"),
        ("    ttt_steps: 3\n", "    ttt_steps: 2\n", "algorithm.ttt_steps"),
        ("    max_steps: 2\n", "    max_steps: 3\n", "trainer.max_steps"),
    ],
)
def test_an_edited_run_yaml_does_not_go_on(line: str, changed: str, key: str, folder: Path) -> None:
    """From weights that were trained with what stood there before."""
    edit(folder / "run" / "run.yaml", line, changed)
    before = (folder / "run" / WEIGHTS).read_bytes()
    code, output = again(folder)
    assert code == 2 and f"trained with {key}=" in output, output
    assert (folder / "run" / WEIGHTS).read_bytes() == before


def test_checkpoints_without_a_run_yaml_are_somebodys(folder: Path) -> None:
    """Another seed does not publish them."""
    (folder / "run" / "run.yaml").unlink()
    with pytest.raises(WrongInput, match="trained with seed=0, and the run has 7"):
        check_free(compose([*overrides(folder), "seed=7"]), folder / "run")
    pinned([*overrides(folder), "seed=7"], folder / "run")
    with pytest.raises(WrongInput, match="trained with seed=0, and the run has 7"):
        launch(folder / "run")
