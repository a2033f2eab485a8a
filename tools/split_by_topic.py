"""Split conversations by topic into a development set and a report set, on topics that a training file does not have.

    python tools/split_by_topic.py smollm2_chat.jsonl smollm2_chat_more.jsonl topics
    python train.py recipe=smollm2_eagle3 data.path=smollm2_chat.jsonl 'evaluation.data={path: topics/development.jsonl}' \\
        evaluation.num_prompts=110

Settings are chosen on development.jsonl, and what was chosen is measured once on report.jsonl. A topic is in one of the two
alone. Prompts without a topic (arithmetic, code) are left out, because their like is in every file. Rows stay as they are; their
order is shuffled, so that the first ones are of all topics and categories.
"""

import argparse
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# The templates that the prompts were filled from.
FRAMES = (
    "Compare {} with something similar and list the differences.",
    "Compose a short poem about {}.",
    "Explain {} to a ten-year-old.",
    "Give a clear, step-by-step explanation of {}.",
    "Give me a study plan for learning about {} in one week.",
    "Give one argument for and one argument against spending public money on {}.",
    "Give ten title ideas for an article about {}.",
    "List five interesting facts about {}.",
    "Make a small table with three rows of key terms about {} and their meanings.",
    "Pretend to be a teacher and quiz me on {} with three questions and their answers.",
    "Summarize what most people should know about {} in two sentences.",
    "What are three common misunderstandings about {}?",
    "What is {}, and why does it matter?",
    "What questions should I ask an expert on {}?",
    "What would happen if {} did not exist? Think step by step.",
    "Write a JSON object with the keys name, category and description for {}.",
    "Write a blog post introduction about {} for beginners.",
    "Write a dialogue between two friends who disagree about {}.",
    "Write a friendly email inviting colleagues to a talk on {}.",
    "Write a product description for a book about {}.",
    "Write a short story about {}.",
    "You are a museum guide. Introduce visitors to {}.",
    "A student has 3 hours to learn about {} and spends 45 minutes reading. "
    "How many minutes are left, and how should they use them?",
)
PATTERNS = [re.compile(re.escape(frame).replace(r"\{\}", "(.+)")) for frame in FRAMES]


def topic(row: dict[str, Any]) -> str | None:
    """The topic of a conversation's prompt; None if no template fits."""
    prompt = row["conversations"][0]["content"]
    return next((found[1] for pattern in PATTERNS if (found := pattern.fullmatch(prompt))), None)


def split(
    train: Iterable[dict[str, Any]], more: Iterable[dict[str, Any]], seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of `more` on topics that `train` does not have: those of one half of the topics, and of the other half."""
    known = {topic(row) for row in train}
    rows = [(name, row) for row in more if (name := topic(row)) is not None and name not in known]
    topics, generator = sorted({name for name, _ in rows}), random.Random(seed)
    generator.shuffle(topics)
    generator.shuffle(rows)
    first = set(topics[: len(topics) // 2])
    return [row for name, row in rows if name in first], [row for name, row in rows if name not in first]


def main() -> None:
    """Write both files and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="JSON lines that a draft is trained on")
    parser.add_argument("more", type=Path, help="JSON lines that are split")
    parser.add_argument("output", type=Path, help="folder of development.jsonl and report.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train, more = ([json.loads(line) for line in file.open(encoding="utf-8")] for file in (args.train, args.more))
    args.output.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("development", "report"), split(train, more, args.seed), strict=True):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.output / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} conversations on {len({topic(row) for row in rows})} topics")


if __name__ == "__main__":
    main()
