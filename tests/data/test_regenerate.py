"""Answers that are written anew: each from what was written before, token for token, those cut by the budget counted."""

import json
from typing import Any

import pytest

from speculators.data.conversations import Message
from speculators.data.prepare import Prepared, prepare
from speculators.data.template import ChatTemplate
from tests.data.conftest import Settings
from tests.data.families import FAMILIES, chat_template
from tests.data.test_prepare import numbered

VOCAB = 5000


class Author:
    """A verifier that answers from a table, by the end of what it is asked.

    Attributes:
        asked: every prompt as text, in order.
    """

    def __init__(self, template: ChatTemplate, answers: dict[str, str]) -> None:
        self.template, self.answers, self.asked = template, answers, list[str]()

    def __call__(self, prompts: list[list[int]], sample: int) -> list[list[int]]:
        texts = [str(self.template.tokenizer.decode(prompt)) for prompt in prompts]
        self.asked += texts
        # The question that is asked last.
        answers = [self.answers[max(self.answers, key=text.rfind)] for text in texts]
        return [self.template.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]


def spoken(made: Prepared, template: ChatTemplate) -> list[tuple[str, list[str]]]:
    """The text of each document and of its supervised runs."""
    found = []
    for document in (d for side in (made.train, made.heldout) for sequence in side for d in sequence):
        runs, before = list[list[int]](), False
        for token, inside in zip(document.tokens, document.supervised, strict=True):
            if inside:
                runs = [*runs[:-1], [*runs[-1], token]] if before else [*runs, [token]]
            before = inside
        decode = template.tokenizer.decode
        found.append((str(decode(list(document.tokens))), [str(decode(run)) for run in runs]))
    return sorted(found)


def talk(*turns: str) -> dict[str, list[Message]]:
    """A conversation of question, answer, question and so on."""
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]}


OTHER = talk("Another?")
ANSWERS = {
    "Another?": "Other.<|im_end|>",
    "Colour?": "Green.<|im_end|>",
    "Sure?": "Quite.<|im_end|>",
    "Why?": "So.<|im_end|>",
}


def test_each_answer_follows_from_those_before(data: Settings, template: ChatTemplate) -> None:
    """In order, from the regenerated history; a last question without an answer gets one too."""
    author = Author(template, ANSWERS)
    rows = [talk("Colour?", "Blue.", "Sure?", "Yes.", "Why?"), OTHER]
    made = prepare(data(*rows, regenerate=True), template, VOCAB, 0, author)
    assert "Blue" not in "".join(author.asked)
    found = {runs[0]: (text, runs) for text, runs in spoken(made, template)}
    text, runs = found["Green.<|im_end|>"]
    assert runs == ["Green.<|im_end|>", "Quite.<|im_end|>", "So.<|im_end|>"] and text.endswith("So.<|im_end|>")
    assert made.report.conversations == 2 and made.report.unfinished == 0


def test_a_prompt_is_asked_once(data: Settings, template: ChatTemplate) -> None:
    """Whatever was answered to it in the data, and however many conversations go on from it."""
    author = Author(template, ANSWERS)
    rows = [talk("Colour?", "Blue."), talk("Colour?", "Red."), talk("Colour?", "Red.", "Sure?", "No."), OTHER]
    made = prepare(data(*rows, regenerate=True), template, VOCAB, 0, author)
    assert len(author.asked) == len(set(author.asked)) == 3
    assert [runs for _, runs in spoken(made, template)].count(["Green.<|im_end|>"]) == 1


def test_each_sample_has_a_history_of_its_own(data: Settings, template: ChatTemplate) -> None:
    """A held-out prompt gets one answer, and a conversation that is left out is counted once."""
    asked: list[tuple[int, str]] = []

    def generate(prompts: list[list[int]], sample: int) -> list[list[int]]:
        asked.extend((sample, str(template.tokenizer.decode(prompt))) for prompt in prompts)
        return [template.tokenizer(f"Sample {sample}.<|im_end|>", add_special_tokens=False)["input_ids"]] * len(prompts)

    rows = [talk("Colour?", "Blue.", "Sure?", "Yes."), talk("Shape?", "Round.", "Sure?", "No."), talk("Long? " * 99)]
    changes = {"regenerate_temperature": 1.0, "regenerate_samples": 3, "max_length": 128, "heldout_fraction": 0.01}
    made = prepare(data(*rows, regenerate=True, **changes), template, VOCAB, 4, generate)
    *train, heldout = [runs for _, runs in spoken(made, template)]
    assert len(made.heldout) == 1 and heldout == ["Sample 0.<|im_end|>"] * 2
    assert sorted(train) == [[f"Sample {n}.<|im_end|>"] * 2 for n in range(3)]
    histories = [(n, text) for n, text in asked if "Sure?" in text]
    assert len(histories) == 4 and all(f"Sample {n}." in text for n, text in histories)
    assert list(made.report.skipped.values()) == [1] and made.report.conversations == 3


def test_thinking_is_kept_and_left_out_of_what_follows(data: Settings) -> None:
    """Qwen3: the answer's thinking is learnt, and the next prompt has the answer without it, as a server's would."""
    template = chat_template(FAMILIES["qwen3"])
    answers = {name: f"<think>\nHm {name}\n</think>\n\n{text}" for name, text in ANSWERS.items()}
    author = Author(template, answers)
    made = prepare(data(talk("Colour?", "Blue.", "Sure?", "Yes."), OTHER, regenerate=True), template, VOCAB, 0, author)
    runs = [run for _, runs in spoken(made, template) for run in runs]
    assert sorted(runs) == sorted(answers[name] for name in ("Colour?", "Sure?", "Another?"))
    (second,) = [text for text in author.asked if "Sure?" in text]
    assert "assistant\nGreen.<|im_end|>" in second and "Hm" not in second


def test_a_call_whose_result_follows_is_kept(data: Settings) -> None:
    """The verifier's own call is learnt, and the conversation goes on with the one that the tool answered."""
    template = chat_template(FAMILIES["qwen3_2507"])
    own = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bergen"}}\n</tool_call><|im_end|>'
    author = Author(template, {"Rain?": own, "sunshine": "Dry.<|im_end|>", "Another?": "Other.<|im_end|>"})
    call = {"type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": "Oslo"})}}
    row: dict[str, Any] = {
        "tools": [{"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": {}}}],
        "messages": [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "sunshine"},
            {"role": "assistant", "content": "No."},
        ],
    }
    made = prepare(data(row, OTHER, regenerate=True), template, VOCAB, 0, author)
    runs = [runs for _, runs in spoken(made, template)]
    assert [own] in runs and ["Dry.<|im_end|>"] in runs
    (last,) = [text for text in author.asked if "sunshine" in text]
    assert "Oslo" in last and "Bergen" not in last and "Of a city." in last


@pytest.mark.parametrize("kept", [True, False])
def test_an_answer_without_an_end_is_counted(kept: bool, data: Settings, template: ChatTemplate) -> None:
    """Kept or dropped; either way the conversation goes no further."""
    answers = ANSWERS | {"Colour?": "Green, blue and"}
    author = Author(template, answers)
    rows = [talk("Colour?", "Blue.", "Sure?", "Yes."), OTHER, talk("Why?")]
    unfinished = "keep" if kept else "drop"
    made = prepare(data(*rows, regenerate=True, regenerate_unfinished=unfinished), template, VOCAB, 0, author)
    assert made.report.unfinished == 1 and not any("Sure?" in text for text in author.asked)
    assert ("Green, blue and" in str(spoken(made, template))) is kept
    reason = "whose answer did not end within data.regenerate_max_new_tokens"
    assert made.report.skipped == ({} if kept else {reason: 1})
    assert "1 regenerated answers reached data.regenerate_max_new_tokens" in str(made.report)


def test_neither_a_refused_prompt_nor_one_without_room_is_asked(data: Settings, template: ChatTemplate) -> None:
    """Both are counted."""
    refusing = ChatTemplate(template.tokenizer, template.end_ids)
    text = str(template.tokenizer.chat_template)
    guard = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
    )
    refusing.tokenizer.chat_template = guard + text
    rows = [*(numbered(n % 8, f"Answer {n}.") for n in range(16))]
    rows.append({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Well?"}]})
    rows.append({"messages": [{"role": "user", "content": "word " * 200}]})
    asked: list[list[int]] = []

    def generate(some: list[list[int]], sample: int) -> list[list[int]]:
        asked.extend(some)
        return [[7, 8, 2] for _ in some]

    try:
        settings = data(*rows, max_length=64, heldout_fraction=0.01, regenerate=True)
        made = prepare(settings, refusing, VOCAB, 0, generate)
    finally:
        refusing.tokenizer.chat_template = text
    assert len(asked) == len({tuple(p) for p in asked}) and all(len(p) < 64 for p in asked)
    documents = [d for side in (made.train, made.heldout) for sequence in side for d in sequence]
    assert sorted(list(d.tokens) for d in documents) == sorted([*p, 7, 8, 2] for p in asked)
    assert all(list(d.supervised) == [False] * (len(d.tokens) - 3) + [True] * 3 for d in documents)
    assert sum(made.report.skipped.values()) + made.report.heldout_prompts >= 2
    assert all(len(p) < 64 for p in made.prompts)
