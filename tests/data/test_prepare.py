"""Conversations from files of either form, what is wrong with them, and packing and collating beside naive twins."""

import json
import random
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from speculators.composition.compose import compose
from speculators.data.collate import collate
from speculators.data.conversations import Conversation, read
from speculators.data.pack import pack
from speculators.data.prepare import Prepared, prepare, prompts
from speculators.data.template import Document
from speculators.settings.run_config import DataSettings

TALK = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}]
SHAREGPT = [{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": "Blue."}]
Settings = Callable[..., DataSettings]


@pytest.fixture
def data(tmp_path: Path) -> Settings:
    """Settings of a file with these rows; a row that is text is a line as it stands."""

    def write(*rows: Any, **changes: Any) -> DataSettings:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        file = tmp_path / "data.jsonl"
        file.write_text("".join(f"{line}\n" for line in lines))
        overrides = [f"data.{key}={json.dumps(value)}" for key, value in changes.items()]
        return compose(["data=jsonl", f"data.path={file}", *overrides]).data

    return write


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(Path(str(files("speculators.assets"))) / "tiny")


def numbered(n: int, answer: str = "Yes.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Is {n} a number?"}, {"role": "assistant", "content": answer}]}


def test_both_forms_are_the_same_conversation(data: Settings) -> None:
    """ShareGPT's and OpenAI's, content in parts, and blank lines between them."""
    parts = [TALK[0] | {"content": [{"type": "text", "text": "Name a "}, {"type": "text", "text": "colour."}]}, TALK[1]]
    rows = [{"messages": TALK}, "", {"conversations": SHAREGPT}, {"messages": parts}]
    assert read(data(*rows), Counter()) == [Conversation(TALK)] * 3


def test_what_follows_the_last_answer_is_left_out(data: Settings) -> None:
    """And an answer that its writer had to cut is known."""
    row = {"messages": [*TALK, TALK[0]], "finish_reason": "length"}
    assert read(data(row), Counter()) == [Conversation(TALK, truncated=True)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no conversation"),
        ([numbered(1), "{broken"], r"data\.jsonl:2 is not JSON .*column 2"),
        ([numbered(1), {"text": "hello"}], r"data\.jsonl:2 has neither `messages` nor `conversations`"),
        ([{"messages": [{"role": "user"}]}], r"data\.jsonl:1 has a turn without role and content"),
        ([{"messages": TALK[:1]}], "no usable conversation: {'without an answer': 1}"),
        ([{"messages": TALK[1:]}], "no usable conversation: {'without a prompt': 1}"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_message(rows: list[Any], message: str, data: Settings) -> None:
    """A broken line by its number, what was left out by its reason."""
    with pytest.raises(ValueError, match=message):
        read(data(*rows), Counter())


def test_what_is_left_out_is_counted(data: Settings, tokenizer: PreTrainedTokenizerBase) -> None:
    """No answer, no prompt, an answer behind the end of the sequence."""
    long = "word " * 200
    rows = [*(numbered(n) for n in range(10)), {"messages": TALK[:1]}, {"messages": TALK[1:]}]
    rows.append({"messages": [{"role": "user", "content": long}, TALK[1]]})
    made = prepare(data(*rows, max_length=64, heldout_fraction=0.01), tokenizer, 4096, seed=0)
    wanted = {"without an answer": 1, "without a prompt": 1, "without an answer inside data.max_length": 1}
    assert made.report.skipped == wanted and made.report.conversations == 11


def test_no_supervised_token_at_all_stops(data: Settings, tokenizer: PreTrainedTokenizerBase) -> None:
    """Every prompt fills the sequence."""
    rows = [{"messages": [{"role": "user", "content": f"{n} word " * 100}, TALK[1]]} for n in range(5)]
    with pytest.raises(ValueError, match="no supervised token at all .* raise data.max_length"):
        prepare(data(*rows, max_length=32), tokenizer, 4096, seed=0)


def test_a_tokenizer_of_another_model_stops(data: Settings, tokenizer: PreTrainedTokenizerBase) -> None:
    """Token ids beyond the verifier's vocabulary."""
    with pytest.raises(ValueError, match="the verifier's vocabulary has only 50"):
        prepare(data(*(numbered(n) for n in range(5))), tokenizer, 50, seed=0)


def test_no_prompt_is_in_both_sides(data: Settings, tokenizer: PreTrainedTokenizerBase) -> None:
    """Conversations with one prompt stay together, and evaluation takes what training held out."""
    settings = data(*(numbered(n % 20, f"Answer {n}.") for n in range(100)), heldout_fraction=0.3)
    made = prepare(settings, tokenizer, 4096, seed=3)

    def said(sequences: list[list[Document]]) -> set[str]:
        texts = (tokenizer.decode(document.tokens) for sequence in sequences for document in sequence)
        return {text.partition(" a number?")[0].rpartition("Is ")[2] for text in texts}

    train, heldout = said(made.train), said(made.heldout)
    assert len(train) == 14 and len(heldout) == 6 and not train & heldout
    assert prompts(settings, tokenizer, seed=3) == made.prompts and len(made.prompts) == 6
    assert prepare(settings, tokenizer, 4096, seed=4).prompts != made.prompts


def test_regeneration_asks_each_prompt_once(data: Settings, tokenizer: PreTrainedTokenizerBase) -> None:
    """Neither a prompt that the template refuses nor one without room is asked; both are counted."""
    refusing = AutoTokenizer.from_pretrained(Path(str(files("speculators.assets"))) / "tiny")
    refusing.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
        + str(tokenizer.chat_template)
    )
    rows = [*(numbered(n % 8, f"Answer {n}.") for n in range(16))]
    rows.append({"messages": [{"role": "system", "content": "Be brief."}, *TALK]})
    rows.append({"messages": [{"role": "user", "content": "word " * 200}, TALK[1]]})
    asked: list[list[int]] = []

    def generate(some: list[list[int]]) -> list[list[int]]:
        asked.extend(some)
        return [[7, 8, 2] for _ in some]

    settings = data(*rows, max_length=64, heldout_fraction=0.01, regenerate=True)
    made: Prepared = prepare(settings, refusing, 4096, 0, generate)
    assert len(asked) == len({tuple(p) for p in asked}) and all(len(p) < 64 for p in asked)
    documents = [d for side in (made.train, made.heldout) for sequence in side for d in sequence]
    assert sorted(d.tokens for d in documents) == sorted([*p, 7, 8, 2] for p in asked)
    assert all(d.supervised == [False] * (len(d.tokens) - 3) + [True] * 3 for d in documents)
    assert sum(made.report.skipped.values()) + made.report.heldout_prompts >= 2
    assert all(len(p) < 64 for p in made.prompts)


@pytest.mark.parametrize("seed", range(20))
def test_packing_is_best_fit_longest_first(seed: int) -> None:
    """The naive twin looks at every sequence for every document."""
    rng = random.Random(seed)
    sizes = [rng.randint(1, 50) for _ in range(rng.randint(1, 60))]
    documents = [Document([n] * size, [True] * size) for n, size in enumerate(sizes)]
    naive: list[list[Document]] = []
    for document in sorted(documents, key=lambda d: -len(d.tokens)):
        room = [50 - sum(len(d.tokens) for d in sequence) for sequence in naive]
        fitting = [(left, i) for i, left in enumerate(room) if left >= len(document.tokens)]
        if fitting:
            naive[min(fitting)[1]].append(document)
        else:
            naive.append([document])
    assert pack(documents, 50) == naive


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
