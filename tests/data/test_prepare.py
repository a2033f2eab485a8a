"""What becomes of a source, and packing and collating beside naive twins."""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from speculators.data.collate import collate
from speculators.data.pack import Packed, pack
from speculators.data.prepare import prepare, prompts
from speculators.data.template import ChatTemplate, Document
from tests.data.conftest import Settings

TALK = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}]


def numbered(n: int, answer: str = "Yes.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Is {n} a number?"}, {"role": "assistant", "content": answer}]}


def test_what_is_left_out_is_counted(data: Settings, template: ChatTemplate) -> None:
    """No answer, no prompt, an answer behind the end of the sequence."""
    long = "word " * 200
    rows = [*(numbered(n) for n in range(10)), {"messages": TALK[:1]}, {"messages": TALK[1:]}]
    rows.append({"messages": [{"role": "user", "content": long}, TALK[1]]})
    made = prepare(data(*rows, max_length=64, heldout_fraction=0.01), template, 4096, seed=0)
    wanted = {"without an answer": 1, "without a prompt": 1, "without an answer inside data.max_length": 1}
    assert made.report.skipped == wanted and made.report.conversations == 11
    assert [place.rpartition(":")[2] for place in made.report.first.values()] == ["11", "12", "13"]
    assert "1 skipped without a prompt (first: " in str(made.report)


def test_no_supervised_token_at_all_stops(data: Settings, template: ChatTemplate) -> None:
    """Every prompt fills the sequence."""
    rows = [{"messages": [{"role": "user", "content": f"{n} word " * 100}, TALK[1]]} for n in range(5)]
    with pytest.raises(ValueError, match="no conversation can be used: 5 without an answer .*raise data.max_length"):
        prepare(data(*rows, max_length=32), template, 4096, seed=0)


def test_a_tokenizer_of_another_model_stops(data: Settings, template: ChatTemplate) -> None:
    """Token ids beyond the verifier's vocabulary."""
    with pytest.raises(ValueError, match="the verifier's vocabulary has only 50"):
        prepare(data(*(numbered(n) for n in range(5))), template, 50, seed=0)


def test_no_prompt_is_in_both_sides(data: Settings, template: ChatTemplate) -> None:
    """Conversations with one prompt stay together, and evaluation takes what training held out."""
    settings = data(*(numbered(n % 20, f"Answer {n}.") for n in range(100)), heldout_fraction=0.3)
    made = prepare(settings, template, 4096, seed=3)

    def said(sequences: Sequence[Packed]) -> set[str]:
        texts = (template.tokenizer.decode(list(document.tokens)) for sequence in sequences for document in sequence)
        return {text.partition(" a number?")[0].rpartition("Is ")[2] for text in texts}

    train, heldout = said(made.train), said(made.heldout)
    assert len(train) == 14 and len(heldout) == 6 and not train & heldout
    found = prompts(settings, template, seed=3)
    assert [prompt.tokens for prompt in found] == made.prompts and len(made.prompts) == 6
    assert prepare(settings, template, 4096, seed=4).prompts != made.prompts


@pytest.mark.parametrize("seed", range(20))
def test_packing_is_best_fit_longest_first(seed: int) -> None:
    """The naive twin looks at every sequence for every document."""
    rng = random.Random(seed)
    sizes = [rng.randint(1, 50) for _ in range(rng.randint(1, 60))]
    naive: list[list[int]] = []
    for document in sorted(range(len(sizes)), key=lambda d: -sizes[d]):
        room = [50 - sum(sizes[d] for d in sequence) for sequence in naive]
        fitting = [(left, i) for i, left in enumerate(room) if left >= sizes[document]]
        if fitting:
            naive[min(fitting)[1]].append(document)
        else:
            naive.append([document])
    order_D, size_S = pack(np.array(sizes), 50)
    ends = np.cumsum([0, *size_S]).tolist()
    assert [order_D[start:end].tolist() for start, end in pairwise(ends)] == naive


@pytest.mark.parametrize("seed", range(10))
def test_collating_token_by_token(seed: int) -> None:
    """Positions, documents, targets and valid anchors by their definitions."""
    rng = random.Random(seed)
    slots = rng.randint(1, 4)
    sequences = [
        [Document(rng.choices(range(9), k=n), rng.choices([True, False], k=n)) for n in rng.choices(range(1, 7), k=3)]
        for _ in range(3)
    ]
    batch = collate(sequences, slots)
    width = max(sum(len(d.tokens) for d in sequence) for sequence in sequences)
    assert batch.token_BT.shape == (3, width)
    flat, number = [], 0
    for sequence in sequences:
        row: list[tuple[int, int, int, bool]] = []
        for document in sequence:
            row += [
                (token, at, number, supervised)
                for at, (token, supervised) in enumerate(zip(document.tokens, document.supervised, strict=True))
            ]
            number += 1
        flat += row + [(0, 0, -1, False)] * (width - len(row))
    for name, column in (("token_BT", 0), ("position_BT", 1), ("document_BT", 2)):
        assert getattr(batch, name).flatten().tolist() == [cell[column] for cell in flat]
    # Target p predicts the supervised token p + 1 of its own document, from the anchor p - 1 at least.
    targets = [
        p
        for p in range(len(flat) - 1)
        if (p + 1) % width and flat[p][2] == flat[p + 1][2] and flat[p + 1][3] and flat[p][1] >= 1
    ]
    grid = [(p, slot, n, flat[p][1] >= slot) for slot in range(1, slots + 1) for n, p in enumerate(targets)]
    rows = batch.rows
    columns = (rows.target_R, rows.slot_R, rows.group_R, rows.valid_R)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == grid
    assert rows.target_U.tolist() == targets and rows.slots == slots


def test_prompts_without_answers_are_decoded(data: Settings, template: ChatTemplate) -> None:
    """`evaluate` needs no answers: each prompt becomes the prompt that a server would make."""
    for regenerate in (False, True):
        settings = data({"prompt": "One?"}, {"messages": TALK[:1]}, {"messages": TALK}, regenerate=regenerate)
        texts = [template.tokenizer.decode(prompt.tokens) for prompt in prompts(settings, template, seed=None)]
        asked = [template.tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False,
                 add_generation_prompt=True) for text in ("One?", "Name a colour.")]  # fmt: skip
        assert texts == asked
