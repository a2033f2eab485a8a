"""Who set a value: every kind of place, and what it costs to say it of all."""

import cProfile
import pstats
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from speculators.composition.compose import compose, pinned
from speculators.composition.moved import moved
from speculators.runfolder.run_yaml import load
from speculators.utils.dotted import flat
from speculators.utils.messages import WrongInput

CONF = Path(str(files("speculators.conf")))


def line(file: Path, text: str) -> int:
    """The line that starts so."""
    return next(i for i, row in enumerate(file.read_text().splitlines(), start=1) if row.strip().startswith(text))


def own(path: str, text: str) -> str:
    """Where a file of this package says something."""
    return f"conf/{path}:{line(CONF / path, text)}"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of a user's own options."""
    folder = tmp_path / "mine"
    (folder / "optimizer").mkdir(parents=True)
    (folder / "recipe").mkdir()
    (folder / "optimizer" / "mine.yaml").write_text(
        "name: adamw\nlr: ${schedule.warmup_ratio}\nbetas:\n  - 0.9\n  - 0.95\neps: 1.0e-8\nweight_decay: 0.0\n"
    )
    (folder / "recipe" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /optimizer: mine\n\nalgorithm:\n  loss:\n    ce: 0.5\n"
        "optimizer:\n  betas: [0.8, 0.9]\nseed: 3\n"
    )
    return folder


def test_every_value_has_a_source(tmp_path: Path) -> None:
    """Of a run with a recipe and overrides each key says where it is from, as a reader of the files would find it."""
    run = pinned(["recipe=quick", "algorithm.ttt_steps=5", "algorithm.loss={ce: 0.5}"], tmp_path)
    sources = load(tmp_path).sources
    assert sources.keys() == flat(run.model_dump()).keys()
    assert sources["algorithm.ttt_steps"] == "override algorithm.ttt_steps=5"
    assert sources["algorithm.loss.ce"] == "override algorithm.loss={ce: 0.5}"
    # A dict is merged: of the others the file decides.
    assert sources["algorithm.loss.kl"] == own("algorithm/eagle3.yaml", "kl:")
    assert sources["trainer.max_steps"] == own("recipe/quick.yaml", "max_steps:")
    assert sources["trainer.epochs"] == own("trainer/default.yaml", "epochs:")
    assert sources["seed"] == own("train.yaml", "seed:")
    name = own("verifier/tiny.yaml", "name_or_path:")
    assert sources["verifier.name_or_path"] == name
    derived = sources["speculator.speculators_config.verifier.name_or_path"]
    assert derived == f"derived from verifier.name_or_path ({name})"
    tokens = own("proposal/greedy.yaml", "speculative_tokens:")
    key = "speculator.speculators_config.proposal_methods.0.speculative_tokens"
    assert sources[key] == f"derived from proposal.speculative_tokens ({tokens})"


def test_a_search_path_is_followed(mine: Path, tmp_path: Path) -> None:
    """Options of hydra.searchpath: their lines, lists that replace lists, references, and the path in the pin."""
    pinned([f"hydra.searchpath=[file://{mine}]", "recipe=mine"], tmp_path)
    pin = load(tmp_path)
    recipe, optimizer = mine / "recipe" / "mine.yaml", mine / "optimizer" / "mine.yaml"
    assert pin.searchpath == [f"file://{mine}"] and pin.overrides == ["recipe=mine"]
    assert pin.sources["seed"] == f"{recipe}:10"
    assert pin.sources["algorithm.loss.ce"] == f"{recipe}:7"
    assert pin.sources["optimizer.betas"] == f"{recipe}:9"
    assert pin.sources["optimizer.eps"] == f"{optimizer}:6"
    warmup = own("schedule/cosine.yaml", "warmup_ratio:")
    assert pin.sources["optimizer.lr"] == f"derived from schedule.warmup_ratio ({warmup})"


@pytest.mark.parametrize(
    ("text", "key", "row"),
    [
        # An item of a list is found in the list that counts, though an earlier file's is longer.
        ("optimizer:\n  betas:\n    - 0.5\n    - x\n", "optimizer.betas.1", 4),
        ("optimizer:\n  betas: [0.5]\n", "optimizer.betas.1", 2),
        # What replaces a whole node is to blame for what is no longer in it.
        ("optimizer:\n  weight_decay: 0.0\nalgorithm:\n  loss: 3\n", "algorithm.loss", 4),
        ("seed: 1\noptimizer:\n  lr: ${optimizer.eps}\n  eps: ${optimizer.lr}\n", "optimizer.lr", 3),
    ],
)
def test_messages_blame_the_line(text: str, key: str, row: int, mine: Path) -> None:
    """Wrong values of a recipe are found where they stand; circles end."""
    recipe = mine / "recipe" / "mine.yaml"
    recipe.write_text(f"# @package _global_\ndefaults:\n  - override /optimizer: adamw\n{text}")
    with pytest.raises(WrongInput) as caught:
        compose([f"hydra.searchpath=[file://{mine}]", "recipe=mine"])
    assert any(m.startswith(key) and m.endswith(f"{recipe}:{row + 3}") for m in caught.value.messages), caught.value


def test_an_installed_package_is_blamed(mine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Options of a package (`pkg://`, as entry points name them) are found in its files."""
    (mine / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(mine.parent)])
    pinned(["hydra.searchpath=[pkg://mine]", "optimizer=mine"], tmp_path / "run")
    assert load(tmp_path / "run").sources["optimizer.eps"] == f"{mine / 'optimizer' / 'mine.yaml'}:6"
    (mine / "optimizer" / "mine.yaml").write_text("name: adamw\nbetas: [0.9, 0.95]\neps: 1.0e-8\nweight_decay: 0.0\n")
    with pytest.raises(WrongInput) as caught:
        compose(["hydra.searchpath=[pkg://mine]", "optimizer=mine"])
    assert caught.value.messages[0].startswith("optimizer.lr is missing")
    assert caught.value.messages[0].endswith("optimizer/mine.yaml:1")


def test_defaults_that_moved_are_named(mine: Path, tmp_path: Path) -> None:
    """A changed file of one's own since the pin is a line with both values and the place; the rest is silent."""
    typed = [f"hydra.searchpath=[file://{mine}]", "recipe=mine", "seed=7", "optimizer.lr=${optimizer.eps}"]
    pinned(typed, tmp_path)
    assert moved(load(tmp_path)) == []
    recipe, optimizer = mine / "recipe" / "mine.yaml", mine / "optimizer" / "mine.yaml"
    recipe.write_text(recipe.read_text().replace("ce: 0.5", "ce: 0.25").replace("seed: 3", "seed: 4"))
    optimizer.write_text(optimizer.read_text().replace("1.0e-8", "1.0e-6"))
    assert moved(load(tmp_path)) == [
        f"algorithm.loss.ce: run.yaml has 0.5, the default is now 0.25 ({recipe}:7)",
        "optimizer.lr: run.yaml has 1e-08, the default is now 1e-06 (override optimizer.lr=${optimizer.eps})",
        f"optimizer.eps: run.yaml has 1e-08, the default is now 1e-06 ({optimizer}:6)",
    ]
    optimizer.unlink()
    (said,) = moved(load(tmp_path))
    assert said.startswith("defaults that changed since cannot be reported: optimizer=mine: there is no such option")
    mine.rename(tmp_path / "elsewhere")
    (said,) = moved(load(tmp_path))
    assert said == f"defaults that changed since cannot be reported: file://{mine} does not exist"


@pytest.mark.parametrize(
    ("overrides", "searchpath", "lines"),
    [
        (["+attack=it"], ["pkg://attack"], ["pkg://attack does not exist"]),
        (["hydra.searchpath=[pkg://attack]"], [], ["hydra.searchpath=[pkg://attack] is not composed again"]),
        (["algorithm=${oc.env:TOKEN}"], [], ["algorithm=${oc.env:TOKEN} is not composed again"]),
        (["tracker.project=${oc.env:TOKEN}", "seed=1"], [], ["seed: run.yaml has 0, the default is now 1"]),
        (["optimizer.lr=${nothing}"], [], ["Interpolation key 'nothing' not found"]),
    ],
)
def test_a_strangers_overrides_are_harmless(
    overrides: list[str], searchpath: list[str], lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They import no package, and no variable of the environment is shown."""
    monkeypatch.setenv("TOKEN", "hf_0123456789")
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "__init__.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    pinned([], tmp_path / "run")
    pin = load(tmp_path / "run").model_copy(update={"overrides": overrides, "searchpath": searchpath})
    said = moved(pin)
    assert len(said) == len(lines) and all(part in line for part, line in zip(lines, said, strict=True)), said
    assert "hf_0123456789" not in "".join(said)


def test_sources_cost_little(tmp_path: Path) -> None:
    """Writing the pin of a run with all sources makes at most as many calls again as composing it."""

    def calls(work: Callable[[], object]) -> int:
        """Number of Python calls, the second time: unlike a time, it is the same on every machine."""
        work()
        profile = cProfile.Profile()
        profile.runcall(work)
        return pstats.Stats(profile).total_calls

    composing = calls(lambda: compose(["recipe=quick"]))
    assert calls(lambda: pinned(["recipe=quick"], tmp_path)) < 2 * composing
    assert len(yaml.safe_load((tmp_path / "run.yaml").read_text())["sources"]) > 70
