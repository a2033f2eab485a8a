"""The split by topic: no topic of the training file, none in both sets, and all others in one of them."""

import runpy
from pathlib import Path
from typing import Any

TOOL = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "split_by_topic.py"))


def row(prompt: str) -> dict[str, Any]:
    return {"conversations": [{"role": "user", "content": prompt}, {"role": "assistant", "content": "Yes."}]}


def test_topics_are_apart() -> None:
    """Of 20 topics four are trained on; a prompt without one is in no set."""
    topics = [f"topic {n} and more" for n in range(20)]
    train = [row(f"Explain {name} to a ten-year-old.") for name in topics[:4]] + [row("What is 2 plus 3 times 3?")]
    more = [row(frame.replace("{}", name)) for name in topics for frame in TOOL["FRAMES"]]
    sets = TOOL["split"](train, [*more, row("Solve for x: 2x + 3 = 5.")], 0)
    names = [{TOOL["topic"](each) for each in rows} for rows in sets]
    assert [len(rows) for rows in sets] == [8 * len(TOOL["FRAMES"])] * 2
    assert not names[0] & names[1] and names[0] | names[1] == set(topics[4:])
    assert TOOL["split"](train, more, 0) == sets != TOOL["split"](train, more, 1)
