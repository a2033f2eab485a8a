"""One HTML page about one or more runs, without network requests; the library of its figures lies beside it. Torch-free."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from speculators.report import figures
from speculators.report.rows import COLOURS, OTHERS, Row, Training, short, trainings
from speculators.runfolder.folder import RunFolder
from speculators.runfolder.result import between
from speculators.utils import files

PAGE = "report.html"
# 4.8 MB, once for all pages of a folder.
LIBRARY = f"plotly-{get_plotlyjs_version()}.min.js"
# Lines kept of a traceback, from its end, where the cause usually is.
LINES = 25
ACCEPTANCE = "acceptance length"
ON_DATA = "on evaluation.data"


@dataclass(frozen=True)
class Section:
    """A heading, what the figures below it show, and the figures by the name of their element."""

    title: str
    note: str
    figures: list[tuple[str, Markup]]

    @property
    def legend(self) -> bool:
        """Whether the section needs a legend: the table and the settings figure already name the trials' colours."""
        return "settings" not in dict(self.figures)


@dataclass(frozen=True)
class Failure:
    """An error that some trials share: its last line, and the end of one traceback."""

    error: str
    end: str
    rows: list[Row]


@dataclass(frozen=True)
class Column:
    """A column of the table of trials, under the group that its name belongs to."""

    name: str
    group: str = ""
    right: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell: what is shown, what it is sorted by, its class."""

    text: str
    value: Any
    style: str = "right"


def write_page(rows: Sequence[Row], file: Path) -> Path:
    """Write the page, and `LIBRARY` beside it unless it is there.

    Args:
        rows: of trials, at least one, the best first; with a single one the page describes that run.
        file: is replaced; its folder is made.
    """
    trained = trainings(rows)
    one = rows[0] if len(rows) == 1 else None
    several = len({row.verifier for row in rows if row.run}) > 1
    own = any(row.trial.result.get("evaluation_data") for row in rows)
    objectives = {row.run["evaluation"]["objective"].replace("_", " ") for row in rows if row.run}
    objective = objectives.pop() if len(objectives) == 1 else "objective"
    page = template("report.html").render(
        title=_title(rows),
        summary=_summary(rows),
        best=_best(
            rows[0], objective, ({"verifier": rows[0].verifier} if several else {}) | ({} if one else rows[0].settings)
        ),
        one=one,
        pinned=RunFolder(one.trial.folder).run_yaml.read_text(encoding="utf-8") if one and one.run else "",
        failures=_failures(rows),
        unreadable=[(row.trial.name, message) for row in rows for message in row.trial.unreadable],
        columns=_columns(rows[0], objective, several, own),
        table=[(row, _cells(row, objective, several, own)) for row in rows],
        legend=[row for row in rows if row.colour != OTHERS] if not one else [],
        coloured=f"The best {len(COLOURS)} have colours of their own." if len(rows) > len(COLOURS) else "",
        sections=_sections(rows, trained, objective),
        shared=trained if len(trained) < len(rows) else [],
        footer=f"speculators-hydra {version('speculators-hydra')}, {datetime.now():%Y-%m-%d %H:%M}",
        library=LIBRARY,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    if not (library := file.with_name(LIBRARY)).exists():
        files.write(library, get_plotlyjs())
    files.write(file, page)
    return file


def template(name: str) -> Template:
    """A template of this folder, which escapes what it is given."""
    folder = PackageLoader("speculators", "report")
    return Environment(loader=folder, autoescape=True, trim_blocks=True).get_template(name)


def _title(rows: Sequence[Row]) -> str:
    """A run's folder, or the one that all trials are in."""
    folder, name = rows[0].trial.folder.absolute(), Path(rows[0].trial.name)
    return folder.name if len(rows) == 1 else folder.parents[len(name.parts) - 1].name


def _summary(rows: Sequence[Row]) -> str:
    counts = Counter(row.trial.status for row in rows)
    if len(rows) == 1 and (run := rows[0].run):
        return f"{run['algorithm']['name']} for {run['verifier']['name_or_path']}, {rows[0].trial.status}"
    said = f"{len(rows)} trials: " + ", ".join(f"{count} {status}" for status, count in counts.items())
    if len(verifiers := {row.verifier for row in rows if row.run}) > 1:
        said += f"; {len(verifiers)} verifiers, one after the other: acceptance lengths of different verifiers cannot be compared"
    elif verifiers:
        said += f"; verifier {verifiers.pop()}"
    measured = {(r.trial.result["num_prompts"], r.run["data"]["source"]) for r in rows if r.run and r.trial.result}
    if len(measured) == 1:
        said += "; measured on {} prompts of data={}".format(*measured.pop())
    return said


def _best(row: Row, objective: str, settings: Mapping[str, str]) -> dict[str, Any] | None:
    """Results of the first row, with its settings; None if nothing was measured."""
    result, trial = row.trial.result, row.trial
    if not result:
        return None
    # Results of earlier versions do not say whether they are lossy.
    sampled = f"not compared, lossy: {result['lossy']}" if result.get("lossy") else "not compared"
    same = {True: "yes", False: "no", None: sampled}[result["matches_plain_decoding"]]
    limit = len(result["acceptance_per_position"]) + 1
    interval = between(result.get("acceptance_length_interval"))
    tiles = [(ACCEPTANCE, f"{result['acceptance_length']:.2f} of at most {limit}{interval}")]
    if own := result.get("evaluation_data"):
        tiles.append((ON_DATA, f"{own['acceptance_length']:.2f}{between(own['acceptance_length_interval'])}"))
        tiles.append(("measured on", f"{own['num_prompts']} prompts of {own['source']}{_trained_on(own)}"))
    if objective != ACCEPTANCE:
        tiles.insert(0, (objective, f"{result['objective']:.4g}"))
    tiles += settings.items()
    tiles.append(("tokens/s / plain decoding", f"{_ratio(result):.2f}"))
    tiles.append(("same text", same))
    if row.parameters is not None:
        tiles.append(("draft", f"{row.parameters / 1e6:.1f} M parameters"))
    return {"tiles": tiles, "checkpoint": trial.checkpoint, "command": row.command}


def _trained_on(own: dict[str, Any]) -> str:
    return "" if own["trained_on"] is None else f", {len(own['trained_on'])} of them also trained on"


def _ratio(result: dict[str, Any]) -> float:
    return result["tokens_per_second"] / result["plain_tokens_per_second"]


def _failures(rows: Sequence[Row]) -> list[Failure]:
    """Failed trials, grouped by their error."""
    by_error: dict[str, list[Row]] = {}
    for row in rows:
        if row.trial.status == "failed":
            by_error.setdefault(row.trial.error, []).append(row)
    return [
        Failure(error, "\n".join(own[0].trial.traceback.splitlines()[-LINES:]), own) for error, own in by_error.items()
    ]


def _columns(row: Row, objective: str, several: bool, own: bool) -> list[Column]:
    """The columns of the table of trials.

    Args:
        row: any.
        objective: its name.
        several: there are several verifiers.
        own: some trials have results on the prompts of evaluation.data.
    """
    settings = [Column(key.rpartition(".")[2], key.rpartition(".")[0], right=False) for key in row.settings]
    measured = [] if objective == ACCEPTANCE else [Column(objective)]
    rest = ["tokens/s", "/ plain", "same text", "s", "GB", "M param."]
    return [
        Column("#", right=False),
        *([Column("verifier", right=False)] if several else []),
        *measured,
        Column(ACCEPTANCE),
        Column("95 % interval"),
        *([Column(ON_DATA), Column("95 % interval")] if own else []),
        *settings,
        Column("status", right=False),
        *map(Column, rest),
        Column("folder", right=False),
    ]


def _length(result: dict[str, Any]) -> list[Cell]:
    """The cells of an acceptance length and its interval."""
    interval = result.get("acceptance_length_interval")
    shown = f"{interval[0]:.2f} – {interval[1]:.2f}" if interval else "–"
    return [_number(result.get("acceptance_length"), ".3f"), Cell(shown, interval[0] if interval else "")]


def _cells(row: Row, objective: str, several: bool, own: bool) -> list[Cell]:
    """The cells of `_columns`."""
    trial, result = row.trial, row.trial.result
    same = {True: "yes", False: "no", None: "lossy" if result.get("lossy") else "–"}[
        result.get("matches_plain_decoding")
    ]
    return [
        Cell(str(row.number), row.number, ""),
        *([Cell(short(row.verifier, 28), row.verifier, "")] if several else []),
        *([] if objective == ACCEPTANCE else [_number(trial.objective, ".4g")]),
        *_length(result),
        *(_length(result.get("evaluation_data") or {}) if own else []),
        *(Cell(short(value, 28) or "–", value, "") for value in row.settings.values()),
        Cell(f"{trial.status}, see below" if trial.unreadable else trial.status, trial.status, trial.status),
        _number(result.get("tokens_per_second"), ".0f"),
        _number(_ratio(result) if result else None, ".2f"),
        Cell(same, same, "right no" if same == "no" else "right"),
        _number(trial.seconds, ".0f"),
        _number(trial.memory_gb, ".2f"),
        _number(None if row.parameters is None else row.parameters / 1e6, ".2f"),
        Cell(trial.name, trial.name, ""),
    ]


def _number(value: float | None, form: str) -> Cell:
    return Cell("–", "") if value is None else Cell(format(value, form), value)


def _sections(rows: Sequence[Row], trained: Sequence[Training], objective: str) -> list[Section]:
    """All sections that have something to show."""
    seconds = {row.number: training.seconds for training in trained for row in training.rows}
    first = figures.curve(trained, lambda r: r.accuracy[0], "accuracy of the first token")
    accuracy = first if len(rows) > 1 else figures.slots(trained[0])
    found = [
        _section(
            "Settings",
            "An axis for each setting that varies; each line is a trial. Drag along an axis to select trials, "
            "double-click it to clear the selection.",
            {"settings": figures.settings(rows, objective)},
        ),
        _section(
            "Acceptance length and cost",
            "Higher and further left is better; the dotted line joins the trials that no other surpasses in both. A pass is "
            "drafting plus verification, timed in the evaluation; above the diagonal is faster than plain decoding.",
            {
                "pass_cost": figures.cost(
                    rows, lambda row: row.pass_cost, "time of a pass / time of a step of plain decoding", even=True
                ),
                "parameters": figures.cost(
                    rows, lambda row: row.parameters and row.parameters / 1e6, "parameters of the draft, M"
                ),
                "seconds": figures.cost(rows, lambda row: seconds[row.number], "seconds of training"),
            },
        ),
        _section(
            "Acceptance by position",
            "Share of drafts whose first k tokens were accepted. The acceptance length is 1 plus the sum over k.",
            {"positions": figures.positions(rows)},
        ),
        _section(
            "Training",
            "Solid lines: training; dotted with markers: held-out data. Losses of different algorithms are not comparable. The "
            "estimate is computed from the held-out accuracy of the trained slots, without decoding; the acceptance length "
            "elsewhere on this page is measured by decoding, and is the one that an engine reaches.",
            {
                "loss": figures.curve(trained, lambda r: r.loss, "loss"),
                "accuracy": accuracy,
                "estimate": figures.curve(
                    trained, lambda r: r.acceptance, "acceptance length, estimated without decoding"
                ),
            },
        ),
    ]
    return [section for section in found if section.figures]


def _section(title: str, note: str, drawn: Mapping[str, go.Figure | None]) -> Section:
    """A section of the figures that there are, by the name of their element."""
    return Section(title, note, [(name, _json(figure)) for name, figure in drawn.items() if figure is not None])


def _json(figure: go.Figure) -> Markup:
    """A figure as JSON for a script element, with `<` escaped."""
    return Markup((figure.to_json() or "").replace("<", "\\u003c"))
