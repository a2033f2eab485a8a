"""The table, the best choice and its command, from measurements made by hand."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from speculators.composition.compose import compose, listed
from speculators.evaluate.comparison import Choice, Comparison
from speculators.evaluate.comparison_printout import as_json, category_table, conclusion, plot, table
from speculators.proposals import GreedyTokenProposalConfig, TokenProposalConfig

EAGER = [[1, 1], [1]]  # acceptance length 2


def choice(proposal: TokenProposalConfig, rounds: list[list[int]], command: str | None = None) -> Choice:
    """A measurement on two prompts, one about code and one story."""
    return Choice(Path("draft"), "eagle3", proposal, proposal.levels, rounds, 30, ["code", "story"], None, command)


ONE = choice(GreedyTokenProposalConfig(speculative_tokens=1), EAGER, "serve 1")
THREE = choice(GreedyTokenProposalConfig(speculative_tokens=3), [[3, 1], [2]], "serve 3")
TREE = choice(compose(["proposal=static_tree"]).proposal, [[3, 2], [3]])
COMPARISON = Comparison([ONE, THREE, TREE], 0.1, True)


def shown(table: object) -> str:
    """What a terminal shows."""
    console = Console(width=140, record=True, file=StringIO())
    console.print(table)
    return console.export_text()


def test_speedups_by_hand() -> None:
    """Lengths 2, 3 and 11/3; divided by 1 + cost ratio times 1, 3 and 5 levels."""
    assert [c.speedup(0.1) for c in COMPARISON.choices] == [2 / 1.1, 3 / 1.3, (1 + 8 / 3) / 1.5]
    assert COMPARISON.best(0.1) is TREE and COMPARISON.best(0.4) is ONE
    assert COMPARISON.best(0.1) is not COMPARISON.best(0.4)
    stars = [line for line in shown(table(COMPARISON)).splitlines() if "*" in line]
    assert sum(line.count("*") for line in stars) == 4 + 1  # a column each, and the caption


def test_choices_are_named_by_what_differs() -> None:
    """Two chains by their tokens; the one tree by its method alone."""
    labels = [COMPARISON.label(c) for c in COMPARISON.choices]
    assert labels == ["greedy 1", "greedy 3", "static_tree"]


def test_the_conclusion_gives_a_command() -> None:
    """Of the best that an engine serves; a tree is not, and where nothing is faster that is said."""
    lines = list(conclusion(COMPARISON))
    assert "static_tree" in lines[0] and "No engine" in lines[1]
    assert lines[2].endswith("greedy 3") and lines[3] == "  serve 3"
    assert list(conclusion(Comparison([ONE], 0.1, True)))[-1] == "  serve 1"
    assert "none is faster" in list(conclusion(Comparison([ONE], 1.5, True)))[0]
    assert "different prompts" in list(conclusion(Comparison([ONE], 0.1, False)))[0]


def test_categories_and_json(tmp_path: Path) -> None:
    """Of the best proposal, by category; the file has all."""
    text = shown(category_table(COMPARISON))
    assert "code" in text and "3.50" in text and "story" in text and "4.00" in text
    found = as_json(COMPARISON)
    assert found["best"] == 2 and found["choices"][0]["categories"]["story"]["acceptance_length"] == 2.0
    assert found["choices"][1]["drafts"] == 3 and found["choices"][1]["accepted"] == 6
    plot(COMPARISON, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_lists_are_read_as_hydra_reads_them() -> None:
    """A list, one value, and items with settings."""
    assert listed("k=", "[1,2]") == [1, 2] and listed("k=", "greedy") == ["greedy"]
    assert listed("proposals=", "[greedy,{proposal_type: dynamic_tree, depth: 4}]") == [
        "greedy", {"proposal_type": "dynamic_tree", "depth": 4}
    ]  # fmt: skip
