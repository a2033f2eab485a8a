"""Which tokens of a conversation are an answer's, in real chat templates.

TRL ships templates as their models have them, and beside each one with generation marks that others wrote.
"""

import re
from collections.abc import Iterator
from importlib.metadata import files
from importlib.resources import files as resources
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from speculators.data.conversations import Conversation, Message
from speculators.data.template import ChatTemplate, Document, TemplateRefused

TEMPLATES = {file.stem: Path(str(file.locate())) for file in files("trl") or [] if file.suffix == ".jinja"}
# The token with which a model of the family ends its turn.
ENDS = {
    "llama3": "<|eot_id|>",
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "gemma3": "<end_of_turn>",
    "phi3_5": "<|end|>",
    "deepseekv3": "<｜end▁of▁sentence｜>",
    "gptoss": "<|return|>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
}
ANSWERS = ["It is two.", "Then four, I think.\n\n1 + 1 + 2 = 4"]
TALK: list[Message] = [
    {"role": "user", "content": "What is one and one?"},
    {"role": "assistant", "content": ANSWERS[0]},
    {"role": "user", "content": "And two more? It is two."},
    {"role": "assistant", "content": ANSWERS[1]},
]


def tokenizer(template: str) -> PreTrainedTokenizerBase:
    """The embedded verifier's, with another template, whose special tokens it knows."""
    made = AutoTokenizer.from_pretrained(str(Path(str(resources("speculators.assets"))) / "tiny"))
    special = re.findall(r"<[|｜][^<>|｜{}]*[|｜]>|<(?:start|end)_of_turn>", template)
    made.add_special_tokens({"additional_special_tokens": sorted(set(special))})
    made.chat_template = template
    return made


def answers(made: PreTrainedTokenizerBase, document: Document) -> list[str]:
    """The text of each run of supervised tokens."""

    def runs() -> Iterator[list[int]]:
        run: list[int] = []
        for token, supervised in zip([*document.tokens, 0], [*document.supervised, False], strict=True):
            if supervised:
                run.append(token)
            elif run:
                yield run
                run = []

    return [made.decode(run) for run in runs()]


def documents(made: PreTrainedTokenizerBase, talk: list[Message], truncated: bool = False) -> list[Document]:
    return list(ChatTemplate(made).documents(Conversation(talk, truncated)))


@pytest.mark.parametrize("name", ENDS)
def test_an_answer_and_its_end_are_supervised_and_nothing_else(name: str) -> None:
    """Also where the question says the answer's words, and where a later turn rewrites an earlier one."""
    made = tokenizer(TEMPLATES[name].read_text())
    found = documents(made, TALK)
    assert [text for document in found for text in answers(made, document)] == [a + ENDS[name] for a in ANSWERS]
    assert len(found) == (2 if name in ("qwen3", "phi3_5", "gptoss") else 1)
    # Each in the context in which it was given.
    assert all(TALK[2]["content"] not in made.decode(document.tokens) for document in found[:-1])


@pytest.mark.parametrize("name", [name for name in ENDS if name != "gptoss"])
def test_marks_that_others_wrote_agree(name: str) -> None:
    """What is supervised here is what TRL marks, but for headings that it adds, and white space behind the end."""
    ours = documents(tokenizer(TEMPLATES[name].read_text()), TALK)
    marked = tokenizer(TEMPLATES[f"{name}_training"].read_text())
    (theirs,) = documents(marked, TALK)
    for found, wanted in zip([text for d in ours for text in answers(marked, d)], answers(marked, theirs), strict=True):
        assert found in wanted
        assert re.fullmatch(r"(<think>|</think>|<｜Assistant｜>|<\|im_end\|>|\s)*", wanted.replace(found, "")), wanted


@pytest.mark.parametrize("marked", [True, False])
def test_the_embedded_template_with_its_marks_and_without(marked: bool) -> None:
    """Both ways supervise the same tokens; a cut answer lacks its end."""
    made = tokenizer(AutoTokenizer.from_pretrained(Path(str(resources("speculators.assets"))) / "tiny").chat_template)
    if not marked:
        made.chat_template = re.sub(r"{%-? *(end)?generation *-?%}", "", made.chat_template)
    assert ChatTemplate(made).marked is marked
    (whole,) = documents(made, TALK)
    assert answers(made, whole) == [f"{answer}<|im_end|>" for answer in ANSWERS]
    (cut,) = documents(made, TALK, truncated=True)
    assert answers(made, cut) == [f"{ANSWERS[0]}<|im_end|>", ANSWERS[1]]
    assert cut.tokens == whole.tokens[: len(cut.tokens)]


@pytest.mark.parametrize("blank", ["", " \n"])
@pytest.mark.parametrize("place", [1, 3])
def test_a_blank_answer_teaches_nothing(blank: str, place: int) -> None:
    """The other answer of the conversation still does."""
    made = tokenizer(TEMPLATES["llama3"].read_text())
    talk = [m | {"content": blank} if i == place else m for i, m in enumerate(TALK)]
    left = ANSWERS[1 if place == 1 else 0]
    assert [text for d in documents(made, talk) for text in answers(made, d)] == [f"{left}<|eot_id|>"]


def test_a_template_that_refuses_says_so() -> None:
    """Its own exception, and an answer that is not rendered as it is."""
    made = tokenizer("{{ raise_exception('no system, please') }}")
    with pytest.raises(TemplateRefused, match="no system, please"):
        documents(made, TALK)
    made = tokenizer("{% for m in messages %}{{ m.content | upper }}{% endfor %}")
    with pytest.raises(TemplateRefused, match="changes an answer's text"):
        documents(made, TALK)


def test_a_turn_that_ends_in_plain_text_has_no_end_to_learn() -> None:
    """The line break between turns is the template's, not the verifier's."""
    made = tokenizer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    (document,) = documents(made, TALK)
    assert [text.strip() for text in answers(made, document)] == ANSWERS
