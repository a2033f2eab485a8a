"""Plotly figures of a report. The page sets the colours of text and axes, since its theme may be light or dark."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from speculators.report.rows import COLOURS, OTHERS, Reading, Row, Training, short

# Least distance of parallel axes in pixels, so that their names do not overlap.
APART = 150
Number = Callable[[Reading], float]


def settings(rows: Sequence[Row], objective: str) -> go.Figure | None:
    """Parallel coordinates: an axis for each setting that varies and one for the objective, a line for each trial.

    Drawn as scatter lines instead of plotly's `parcoords`, which needs WebGL, has no hover text for lines and
    cannot follow the page's dark theme.

    Args:
        rows: at least one.
        objective: its name.

    Returns:
        None where fewer than two trials were measured, or none of their settings varies.
    """
    measured = [row for row in rows if row.trial.objective is not None]
    keys = [key for key in rows[0].settings if len({row.settings[key] for row in measured}) > 1]
    if not keys:
        return None
    axes = [_axis(key, [row.settings[key] for row in measured]) for key in keys]
    axes.append(_axis(objective, [str(row.trial.objective) for row in measured]))
    traces = [
        go.Scatter(
            x=list(range(len(axes))),
            y=[places[i] for _, places, _ in axes],
            mode="lines+markers",
            line={"color": row.colour, "width": 2},
            marker={"size": 7},
            opacity=row.opacity,
            meta=[row.number],
            hovertemplate=_named(row) + "<extra></extra>",
            # The page's script highlights the brushed lines.
            unselected={"marker": {"opacity": 1}},
        )
        for i, row in enumerate(measured)
    ]
    figure = _figure(traces[::-1], "", "", 380)
    for x, (name, _, ticks) in enumerate(axes):
        figure.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, layer="below", line={"width": 1})
        _write(figure, x, 1.04, f"<b>{_broken(name)}</b>", "center", "bottom")
        # The last axis has its ticks on the outside, where there are no lines.
        side, shift = ("left", 9) if x == len(axes) - 1 else ("right", -9)
        for place, text in ticks:
            _write(figure, x, place, escape(short(text, 20)), side, "middle", shift)
    # The ticks of the first axis stand left of it, about 8 pixels a letter.
    left = max(8 * len(short(text, 20)) + 20 for _, text in axes[0][2]) / APART
    figure.update_xaxes(visible=False, range=[-left, len(axes) - 0.6], fixedrange=True)
    figure.update_yaxes(visible=False, range=[-0.05, 1.22], fixedrange=True)
    margin = {"l": 8, "r": 8, "t": 8, "b": 8}
    return figure.update_layout(dragmode="select", margin=margin, meta={"min_width": APART * len(axes)})


def cost(rows: Sequence[Row], of: Callable[[Row], float | None], title: str, even: bool = False) -> go.Figure | None:
    """Acceptance length against a cost, with the Pareto front of the trials of one verifier.

    Args:
        rows: at least one.
        of: a trial's cost; None leaves it out.
        title: of the cost.
        even: draw the break-even line (speedup 1); for a cost per pass.

    Returns:
        None where no two trials differ in the cost.
    """
    points = sorted((c, -row.trial.result["acceptance_length"], row.number, row) for row in rows
                    if row.trial.result and (c := of(row)) is not None)  # fmt: skip
    if len({x for x, *_ in points}) < 2:
        return None
    front: list[tuple[float, float]] = []
    # Lengths of different verifiers cannot be compared.
    of_one = points if len({row.verifier for *_, row in points}) == 1 else []
    for x, y, *_ in of_one:
        if not front or -y > front[-1][1]:
            front.append((x, -y))
    xs, ys = [p[0] for p in points], [-p[1] for p in points]
    dotted = {"color": OTHERS, "width": 1.5, "dash": "dot", "shape": "hv"}
    ending = [*front, (max(xs), front[-1][1])] if front else []
    traces = [
        go.Scatter(x=[x for x, _ in ending], y=[y for _, y in ending], mode="lines", line=dotted, hoverinfo="skip")
    ]
    for x, y, _, row in reversed(points):
        traces.append(
            go.Scatter(
                x=[x],
                y=[-y],
                mode="markers",
                marker={"size": 11, "color": row.colour},
                opacity=row.opacity,
                meta=[row.number],
                hovertemplate=f"{_named(row)}<br>{escape(title)}: %{{x:.4g}}<extra></extra>",
            )
        )
    figure = _figure(traces, title, "acceptance length", 330)
    if even:
        end, middle = max(*xs, *ys), (1 + max(*xs, *ys)) / 2
        figure.add_shape(type="line", x0=1, y0=1, x1=end, y1=end, layer="below", line={"width": 1})
        _write(figure, middle, middle, "same speed as plain decoding", "left", "top", 4)
    return figure


def positions(rows: Sequence[Row]) -> go.Figure | None:
    """Share of drafts accepted up to each drafted position: bars for one trial, lines for several; None without any."""
    measured = [row for row in rows if row.trial.result]
    if not measured:
        return None
    traces: list[Any] = []
    for row in reversed(measured):
        shares = row.trial.result["acceptance_per_position"]
        places = list(range(1, len(shares) + 1))
        if len(rows) == 1:
            traces.append(
                go.Bar(
                    x=places,
                    y=shares,
                    marker={"color": row.colour},
                    texttemplate="%{y:.2f}",
                    textposition="outside",
                    cliponaxis=False,
                    hoverinfo="skip",
                    width=0.6,
                )
            )
        else:
            traces.append(_line(row.colour, [row], places, shares, "solid", "lines+markers", "position %{x}: %{y:.2f}"))
    figure = _figure(traces, "position", "share of drafts accepted up to this position", 330)
    figure.update_xaxes(dtick=1, showgrid=False)
    figure.update_yaxes(range=[0, 1.08])
    return figure


def curve(trainings: Sequence[Training], of: Number, title: str) -> go.Figure | None:
    """A reading over the steps: a line for training, dots for the held-out data; None if nothing was logged.

    Args:
        trainings: each is drawn once, in the colour of its best trial.
        of: takes the number out of a reading.
        title: of the reading.
    """
    traces = [trace for training in reversed(trainings) for trace in _learning(training, of, training.rows[0].colour)]
    return _figure(traces, "step", title, 330) if traces else None


def slots(training: Training) -> go.Figure | None:
    """Accuracy of each slot of one training: how often the draft's first choice is the verifier's."""
    train = training.curves.train
    if not train:
        return None
    traces = []
    for slot in reversed(range(len(train[0].accuracy))):
        drawn = _learning(training, lambda r, slot=slot: r.accuracy[slot], COLOURS[slot % len(COLOURS)])
        drawn[0].update(name=f"token {slot + 1}", showlegend=True)
        traces += drawn
    figure = _figure(traces, "step", "accuracy", 330)
    right = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "traceorder": "reversed"}
    return figure.update_layout(showlegend=True, legend=right)


def _learning(training: Training, of: Number, colour: str) -> list[go.Scatter]:
    """A reading of one training: a solid line for training data, dotted with markers for the held-out data."""
    kinds = (
        ("training", training.curves.train, "solid", "lines"),
        ("held out", training.curves.heldout, "dot", "lines+markers"),
    )
    return [
        _line(colour, training.rows, [r.step for r in readings], [of(r) for r in readings], dash, mode,
              f"step %{{x}}, {kind}: %{{y:.4g}}")
        for kind, readings, dash, mode in kinds if readings
    ]  # fmt: skip


def _line(
    colour: str, rows: Sequence[Row], x: Sequence[float], y: Sequence[float], dash: str, mode: str, hover: str
) -> go.Scatter:
    """A line of one or more trials."""
    return go.Scatter(
        x=x,
        y=[_rounded(value) for value in y],
        mode=mode,
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 7},
        opacity=rows[0].opacity,
        showlegend=False,
        meta=[row.number for row in rows],
        hovertemplate=f"{_named(*rows)}<br>{hover}<extra></extra>",
    )


def _figure(traces: Sequence[Any], x: str, y: str, height: int) -> go.Figure:
    """A figure with the layout that all figures share."""
    layout = go.Layout(
        template="none",
        height=height,
        showlegend=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        hoverlabel={"align": "left", "namelength": -1},
        hovermode="closest",
        margin={"l": 40, "r": 16, "t": 40, "b": 44},
        # Above the axis and horizontal, so that it is easy to read.
        title={"text": y, "x": 0.02, "y": 0.97, "yanchor": "top", "font": {"size": 14}},
        xaxis={"title": {"text": x, "font": {"size": 13}}, "zeroline": False, "automargin": True},
        yaxis={"zeroline": False, "automargin": True},
    )
    return go.Figure(list(traces), layout)


def _write(figure: go.Figure, x: float, y: float, text: str, left: str, top: str, shift: int = 0) -> None:
    figure.add_annotation(x=x, y=y, text=text, xanchor=left, yanchor=top, xshift=shift, showarrow=False)


def _named(*rows: Row) -> str:
    """Hover text that names trials: one with its settings, several with the settings that they share."""
    first = rows[0]
    shared = {k: v for k, v in first.settings.items() if all(row.settings[k] == v for row in rows)}
    numbers = ", ".join(f"#{row.number}" for row in rows[:12]) + (" ..." if len(rows) > 12 else "")
    lines = [f"<b>{numbers}</b> {escape(first.trial.name) if len(rows) == 1 else ''}"]
    lines += [f"{escape(key)} = {escape(short(value, 60))}" for key, value in shared.items()]
    if len(rows) == 1 and first.trial.result:
        lines.append(f"acceptance length {first.trial.result['acceptance_length']:.3f}")
    return "<br>".join(lines)


def _axis(name: str, values: Sequence[str]) -> tuple[str, list[float], list[tuple[float, str]]]:
    """One of the parallel axes: its name, the place of each value in 0..1, and its ticks.

    Numbers are placed as numbers, by their logarithm where they span more than a factor of 20; all else evenly.
    """
    try:
        numbers = [float(value) for value in values]
        if not all(map(math.isfinite, numbers)):
            raise ValueError
    except ValueError:
        options = list(dict.fromkeys(sorted(values)))
        place = {option: i / max(1, len(options) - 1) for i, option in enumerate(options)}
        return name, [place[value] for value in values], [(place[option], option) for option in options]
    low, high = min(numbers), max(numbers)
    logarithmic = low > 0 and high / low > 20
    bend = math.log if logarithmic else float
    back = math.exp if logarithmic else float

    def place_of(number: float) -> float:
        return (bend(number) - bend(low)) / (bend(high) - bend(low)) if high > low else 0.5

    different = sorted(set(numbers))
    if len(different) > 6:
        different = [back(bend(low) + (bend(high) - bend(low)) * i / 4) for i in range(5)]
    return name, [place_of(n) for n in numbers], [(place_of(n), f"{n:.4g}") for n in different]


def _broken(key: str) -> str:
    """A dotted key, broken into two lines."""
    group, dot, name = escape(key).rpartition(".")
    return f"{group}.<br>{name}" if dot else name


def _rounded(value: float) -> float:
    """Rounded to five digits, to keep the page small."""
    return float(f"{value:.5g}")
