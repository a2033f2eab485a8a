"""The page of runs and sweeps: as a browser shows it, of whole and of broken folders, in the middle of a sweep."""

import csv
import html
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By

from speculators.cli.launch import launch
from speculators.composition.compose import compose
from speculators.report.page import LIBRARY, write_page
from speculators.report.rows import ranked
from speculators.report.runs import Trial, read, runs
from speculators.runfolder.folder import RunFolder
from speculators.runfolder.run_yaml import write_pin
from speculators.sweep.table import errors, table
from speculators.utils.messages import RunFailed

from .browser import complaints, needs_chromium, opened, requests
from .conftest import SHORT, command, verifier

# What is drawn of each plot: at least one line, bar or dot that takes up room.
DRAWN = """
return Object.fromEntries([...document.querySelectorAll(".js-plotly-plot")].map((plot) => {
  const marks = [...plot.querySelectorAll(".trace path")].map((mark) => mark.getBoundingClientRect());
  const box = plot.querySelector("svg.main-svg").getBoundingClientRect();
  return [plot.id, Math.min(box.width, box.height, Math.max(...marks.map((mark) => mark.width + mark.height)))];
}));
"""


def report(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`speculators report`."""
    line = [sys.executable, "-m", "speculators", "report", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=100)


def column(browser: Chrome, name: str) -> list[str]:
    """The shown cells below a heading of the table, top to bottom."""
    heads = [head.text.replace("\n", " ") for head in browser.find_elements(By.CSS_SELECTOR, "#trials th")]
    cells = browser.find_elements(By.CSS_SELECTOR, f"#trials tbody td:nth-child({heads.index(name) + 1})")
    return [cell.text for cell in cells if cell.is_displayed()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four trials: two share a training, two fail, for their verifier has no weights."""
    root = tmp_path_factory.mktemp("report")
    whole, empty = verifier(root / "whole", weights=True), verifier(root / "<b>empty", weights=False)
    trials = ["verifier=hf", f"verifier.name_or_path='{whole}','{empty}'"]
    trials += ["algorithm=medusa", "proposal.speculative_tokens=1,2"]
    done = subprocess.run(
        command(*trials),
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1 and "sweep/report.html" in done.stdout, done.stdout + done.stderr
    return root / "sweep"


@pytest.mark.slow
@needs_chromium
def test_a_sweeps_page_in_a_browser(folder: Path, tmp_path: Path) -> None:
    """No error, no request; every trial and every plot is there, and agrees with results.csv."""
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        table = {row["trial"]: row for row in csv.DictReader(file)}
    with opened(folder / "report.html", tmp_path / "profile") as browser:
        drawn = browser.execute_script(DRAWN)
        assert drawn.keys() == {"settings", "pass_cost", "positions", "loss", "accuracy", "estimate"}
        assert all(size > 3 for size in drawn.values()), drawn

        assert sorted(column(browser, "folder")) == sorted(table)
        assert column(browser, "status") == ["done", "done", "failed", "failed"]
        lengths = [float(row["acceptance_length"]) for row in table.values() if row["acceptance_length"]]
        best_first = [f"{length:.3f}" for length in sorted(lengths, reverse=True)]
        assert column(browser, "acceptance length") == [*best_first, "–", "–"]
        failure = browser.find_element(By.CSS_SELECTOR, "#failures + details")
        assert "<b>empty" in failure.text and all(
            (name in failure.text) == (row["status"] == "failed") for name, row in table.items()
        )
        assert "vllm serve" in browser.find_element(By.ID, "serve").text
        summary = browser.find_element(By.XPATH, "//summary[contains(., 'trainings')]").text
        assert summary == "2 trainings for 4 trials"

        for heading in browser.find_elements(By.CSS_SELECTOR, "#trials th"):
            if heading.text == "s":
                heading.click()
        shown = [float(seconds) for seconds in column(browser, "s") if seconds != "–"]
        assert shown == sorted(shown) and len(shown) == 2

        pick_and_brush(browser)
        assert complaints(browser) == []
        assert requests(browser) == [(folder / "report.html").as_uri(), (folder / LIBRARY).as_uri()]
        assert (folder / "report.html").stat().st_size < 1.5e6
        # A phone: nothing is wider than the screen.
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        browser.refresh()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def pick_and_brush(browser: Chrome) -> None:
    """The pointer on a trial dims the others; a brush over an axis keeps the trials that cross it there."""

    def dimmed() -> int:
        return len(browser.find_elements(By.CSS_SELECTOR, "#settings .trace.out"))

    browser.execute_script("document.getElementById('settings').scrollIntoView({block: 'center'})")
    (best, *_) = browser.find_elements(By.CSS_SELECTOR, "#trials tbody tr")
    ActionChains(browser).move_to_element(best).perform()
    assert dimmed() == 1
    # The first axis is that of speculative_tokens, 2 at its top.
    browser.execute_script("document.getElementById('settings').scrollIntoView({block: 'center'})")
    axis: Any = browser.find_element(By.CSS_SELECTOR, "#settings .shapelayer path").rect
    top = browser.execute_script("return window.scrollY")
    x, y = int(axis["x"]), int(axis["y"] - top)
    brush = ActionChains(browser)
    brush.w3c_actions.pointer_action.move_to_location(x - 30, y - 15).pointer_down()
    brush.w3c_actions.pointer_action.move_to_location(x, y).move_to_location(x + 30, y + 15).pointer_up()
    brush.perform()
    assert column(browser, "proposal speculative_tokens") == ["2"] and dimmed() == 1


@pytest.mark.slow
@needs_chromium
def test_a_runs_page_in_a_browser(folder: Path, tmp_path: Path) -> None:
    """The same of a single run: its own figures, its settings, no table of trials."""
    trial = next(file.parent for file in folder.glob("*/DONE"))
    made = report(trial, "--output", tmp_path / "one.html")
    assert made.returncode == 0 and made.stdout.strip() == str(tmp_path / "one.html"), made.stderr
    result = json.loads((trial / "result.json").read_text())
    with opened(tmp_path / "one.html", tmp_path / "profile") as browser:
        drawn = browser.execute_script(DRAWN)
        assert drawn.keys() == {"positions", "loss", "accuracy", "estimate"}
        assert all(size > 3 for size in drawn.values()), drawn
        assert f"{result['acceptance_length']:.2f}" in browser.find_element(By.ID, "best").text
        # The plot of the training says that it does not show measured lengths.
        drawn_text = browser.execute_script("return document.getElementById('estimate').textContent")
        assert "acceptance length, estimated without decoding" in drawn_text
        assert not browser.find_elements(By.ID, "trials")
        assert complaints(browser) == []
        assert requests(browser) == [(tmp_path / "one.html").as_uri(), (tmp_path / LIBRARY).as_uri()]


def test_trials_that_have_not_ended_are_told_apart(tmp_path: Path) -> None:
    """A running process holds the lock of its folder, an interrupted one does not. The page has both."""
    for name in ("stopped", "going", "broken"):
        missing = ["data=jsonl", "data.path=/nowhere.jsonl"]
        write_pin(compose([*SHORT[:-1], *missing]), tmp_path / "sweep" / name)
    with pytest.raises(RunFailed):
        launch(tmp_path / "sweep" / "broken")
    with RunFolder(tmp_path / "sweep" / "going").lock():
        status = {trial.name: trial.status for trial in read(tmp_path / "sweep")}
        assert status == {"stopped": "interrupted", "going": "running", "broken": "failed"}
        made = report(tmp_path / "sweep")
    assert made.returncode == 0, made.stderr
    page = (tmp_path / "sweep" / "report.html").read_text(encoding="utf-8")
    assert all(f"1 {word}" in page for word in status.values())


def test_runs_of_several_places_are_compared_by_what_they_chose(tmp_path: Path) -> None:
    """A key that only one of them overrides has its value for the others too."""
    for name, overrides in (("a/one", ["optimizer.lr=0.25"]), ("b/two", ["algorithm=medusa"])):
        write_pin(compose(overrides), tmp_path / name)
        (tmp_path / name / ".hydra").mkdir()
        (tmp_path / name / ".hydra" / "overrides.yaml").write_text("".join(f"- {o}\n" for o in overrides))
    (tmp_path / "a/one/.hydra/hydra.yaml").write_text("hydra: {runtime: {choices: {algorithm: eagle3}}}\n")

    rows = ranked(read(tmp_path / "a" / "one", tmp_path / "b"))
    assert {row.trial.name: row.settings for row in rows} == {
        "a/one": {"optimizer.lr": "0.25", "algorithm": "eagle3"},
        "b/two": {"optimizer.lr": "0.02", "algorithm": "medusa"},
    }
    assert {row.label for row in rows} == {"eagle3 lr=0.25", "medusa lr=0.02"}
    page = write_page(rows, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "2 trials: 2 interrupted; verifier pkg://speculators.assets/tiny<" in page


def test_a_sweeps_table_fits_80_columns() -> None:
    """No setting, status or number is cut or broken, of a failed trial neither; keys with one last part are whole."""
    varied = ["algorithm=eagle3", "proposal.speculative_tokens=5", "optimizer.lr=0.005"]
    result = {"objective": 1.051, "acceptance_length": 1.051, "tokens_per_second": 108.25}
    trials = [
        Trial(Path("59f27df7072f"), "59f27df7072f", varied, "interrupted", result, 56.6, 0.978, ""),
        Trial(Path("46f5cd10a272"), "46f5cd10a272", varied, "failed", {}, None, None, "ValueError: no weights"),
    ]

    def shown(trials: list[Trial], width: int = 80) -> list[list[str]]:
        console = Console(width=width, file=io.StringIO())
        with console.capture() as printed:
            console.print(table(trials))
        lines = printed.get().splitlines()
        assert max(map(len, lines)) <= width
        return [line.split() for line in lines]

    lines = shown(trials)
    numbers = ["1.051", "108.2", "56.6", "0.978"]
    assert ["algorithm=eagle3", "59f27df7072f", "interrupted", *numbers] in lines
    assert ["algorithm=eagle3", "46f5cd10a272", "failed", "-", "-", "-", "-"] in lines
    assert lines.count(["speculative_tokens=5"]) == lines.count(["lr=0.005"]) == 2
    assert errors(trials) == ["46f5cd10a272 failed: ValueError: no weights"]
    same_end = replace(
        trials[0], overrides=["optimizer.name=muon", "schedule.name=linear"], result={**result, "objective": 2}
    )
    lines = shown([same_end], 100)
    assert lines[2] == ["trial", "folder", "status", "objective", "acceptance", "tokens/s", "s", "GB"]
    assert ["optimizer.name=muon", "59f27df7072f", "interrupted", "2", *numbers] in lines and [
        "schedule.name=linear"
    ] in lines


def test_drafts_of_different_verifiers_are_grouped(tmp_path: Path) -> None:
    """A parent folder's runs are found at any depth, copies in published drafts left out; verifiers are not ranked together."""
    other = verifier(tmp_path / "other", weights=False)
    chosen = {"x/a": [], "x/b": [f"verifier.name_or_path={other}"], "c": []}
    for name, overrides in chosen.items():
        write_pin(compose(overrides), tmp_path / name)
        (tmp_path / name / "checkpoint").mkdir()
        shutil.copy(tmp_path / name / "run.yaml", tmp_path / name / "checkpoint")
    assert runs(tmp_path) == sorted(tmp_path / name for name in chosen)
    trials = [
        Trial(tmp_path / name, name, [], "cut off", {"objective": value}, None, None, "")
        for name, value in (("x/a", 3.0), ("x/b", 2.0), ("c", 1.0))
    ]
    assert [(row.trial.name, row.number) for row in ranked(trials)] == [("x/a", 1), ("c", 2), ("x/b", 3)]


def test_wrong_input_is_one_message(tmp_path: Path) -> None:
    """A folder that is not there, and one without a run: exit code 2, the path, no traceback, no page."""
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        refused = report(folder)
        assert refused.returncode == 2 and f"{folder}: it contains no run" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not list(tmp_path.rglob("*.html"))


def test_reading_and_drawing_need_neither_torch_nor_hydra() -> None:
    """A page is made where the results are, which may be a laptop."""
    code = "import sys, speculators.report.page as _; print({'torch', 'hydra', 'omegaconf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_the_serve_command_of_a_folder_with_an_odd_name(folder: Path, tmp_path: Path) -> None:
    """What a browser copies from the page is the command for that folder, as a shell reads it."""
    odd = tmp_path / 'it\'s <b>$(x)</b> &lt; "quoted"'
    shutil.copytree(folder, odd, symlinks=True)
    report(odd)
    page = (odd / "report.html").read_text(encoding="utf-8")
    assert "<b>$(x)" not in page.split("<script")[0]
    command = html.unescape(page.split('<pre id="serve">')[1].split("</pre>")[0])
    words = shlex.split(command)
    assert words[:2] == ["vllm", "serve"] and words[3] == "--speculative-config"
    assert Path(json.loads(words[4])["model"]).is_relative_to(odd)
