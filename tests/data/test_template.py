"""Which tokens are supervised, on the real templates of twenty families: written by hand, marked by others, asked naively."""

import random
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from speculators.composition.compose import pinned
from speculators.data.conversations import Conversation, Message, conversation
from speculators.data.template import ChatTemplate, Document, Rendered, TemplateRefused
from speculators.data.unused import Unused
from speculators.runfolder.run_yaml import load
from tests.data.families import FAMILIES, TEMPLATES, Family, chat_template, source, tokenizer

ANSWERS = ["It is two.", "<b>Four</b>, I think.\n\n1 + 1 + 2 = 4"]
REASONS = ["One and one.", "Two more."]
TALK: list[Message] = [
    {"role": "user", "content": "What is one and one?"},
    {"role": "assistant", "content": ANSWERS[0]},
    {"role": "user", "content": "And two more? It is two."},
    {"role": "assistant", "content": ANSWERS[1]},
]
CALL = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "Where."}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": PARAMETERS}}]
ASKING = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Does it rain in Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "rain"},
    {"role": "assistant", "content": "It rains."},
]


def reasoned(talk: list[Message]) -> list[Message]:
    """With reasoning beside each answer."""
    reasons = iter(REASONS)
    return [m | {"reasoning_content": next(reasons)} if m["role"] == "assistant" else m for m in talk]


def rendered(template: ChatTemplate, row: dict[str, Any], left_out: Unused | None = None) -> list[Rendered]:
    return template.rendered(conversation("here", row, answered=True), left_out or Unused())


def supervised(documents: list[Rendered]) -> list[str]:
    """The text of every span."""
    return [d.text[start:end] for d in documents for start, end in d.spans]


def answers(made: PreTrainedTokenizerBase, document: Document) -> list[str]:
    """The text of each run of supervised tokens."""

    def runs() -> Iterator[list[int]]:
        run: list[int] = []
        for token, inside in zip([*document.tokens, 0], [*document.supervised, False], strict=True):
            if inside:
                run.append(token)
            elif run:
                yield run
                run = []

    return [made.decode(run) for run in runs()]


def documents(template: ChatTemplate, talk: list[Message], truncated: bool = False) -> list[Document]:
    return template.tokenised(template.rendered(Conversation(talk, truncated=truncated), Unused()))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
class TestFamily:
    """What a model of the family writes, and nothing else."""

    def test_answers(self, family: Family) -> None:
        """Also where the question says the answer's words, and where a later turn rewrites an earlier one."""
        template, left_out = chat_template(family), Unused()
        found = rendered(template, {"messages": TALK}, left_out)
        assert supervised(found) == [family.plain.replace("{a}", answer) for answer in ANSWERS]
        assert len(found) == family.documents and not left_out.counts
        # Each in the context in which it was given.
        assert all(TALK[2]["content"] not in document.text for document in found[:-1])
        tokens = template.tokenised(found)
        assert [text for d in tokens for text in answers(template.tokenizer, d)] == supervised(found)

    def test_reasoning(self, family: Family) -> None:
        """Beside the answer, or inside it in tags; where the template leaves it out, that is counted."""
        template, left_out = chat_template(family), Unused()
        found = supervised(rendered(template, {"messages": reasoned(TALK)}, left_out))
        expected = [
            family.reasoning.replace("{r}", reason).replace("{a}", answer)
            for reason, answer in zip(REASONS, ANSWERS, strict=True)
        ]
        if family.variables:
            # Who forbids the thinking and gives reasoning all the same gets what the template makes of it.
            assert all(text.endswith(e) for text, e in zip(found, expected, strict=True))
            return
        assert found == expected
        assert left_out.counts == ({} if "{r}" in family.reasoning else {"answers without their reasoning": 2})
        inline = [m | {"content": f"<think>\n{REASONS[0]}\n</think>\n\n{m['content']}"} for m in TALK[1:2]]
        (text,) = supervised(rendered(template, {"messages": [TALK[0], *inline]}))
        assert text in (expected[0], family.plain.replace("{a}", inline[0]["content"])) or ANSWERS[0] in text

    def test_tools(self, family: Family) -> None:
        """A call without content, with its arguments as JSON text; what the tool says is no answer."""
        template, left_out = chat_template(family), Unused()
        row = {"messages": ASKING, "tools": TOOLS}
        if family.call == "":
            with pytest.raises(TemplateRefused, match="refuses"):
                rendered(template, row)
            return
        found = rendered(template, row, left_out)
        last = family.plain.replace("{a}", "It rains.")
        assert supervised(found) == [*([family.call] if family.call else []), last]
        assert left_out.counts == ({} if family.call else {"answers without their tool calls": 1})
        assert all("Where." in d.text for d in found) == (re.search(r"\btools\b", source(family)) is not None)

    def test_an_answer_is_read_back(self, family: Family) -> None:
        """What a regenerated answer becomes in the prompt that follows: its text, its reasoning apart."""
        template = chat_template(family)
        for text, expected in ((family.plain, {}), (family.reasoning, {"reasoning": REASONS[0]})):
            written = text.replace("{r}", REASONS[0]).replace("{a}", ANSWERS[0]).rstrip()
            tokens = template.tokenizer(written, add_special_tokens=False)["input_ids"]
            read = template.message(tokens)
            assert read["content"] == ANSWERS[0]
            assert read.get("reasoning") == (expected.get("reasoning") if "{r}" in text else None)


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f"{f.template}_training" in TEMPLATES])
def test_marks_that_others_wrote_agree(name: str) -> None:
    """What is supervised here is what TRL marks, but for headings that it adds, and white space behind the end."""
    family = FAMILIES[name]
    ours = supervised(rendered(chat_template(family), {"messages": TALK}))
    marked = chat_template(family, TEMPLATES[f"{family.template}_training"].read_text())
    assert marked.marked
    theirs = supervised(rendered(marked, {"messages": TALK}))
    joined = "".join(theirs)
    for found in ours:
        assert joined.count(found) == 1
        joined = joined.replace(found, "")
    headings = r"<think>|</think>|<｜Assistant｜>|<\|start\|>assistant|<\|im_end\|>|<\|end\|>|<\|endoftext\|>|\s"
    assert re.fullmatch(f"({headings})*", joined), joined


def given(rendering: list[Rendered]) -> list[tuple[str, str]]:
    """Each answer with all that stands before it."""
    return [(d.text[:start], d.text[start:end]) for d in rendering for start, end in d.spans]


def talks(count: int, seed: int) -> Iterator[list[Message]]:
    """Plain conversations of one to four exchanges, with texts that look like tags and headings."""
    rng = random.Random(seed)
    words = ["yes", "no", "two", "<b>", "assistant\n", "</s>", "\n\n", "  ", "<|", "é", "It is two.", "{{ x }}"]
    for _ in range(count):
        system = [{"role": "system", "content": "Be brief."}] if rng.random() < 0.3 else []
        turns = [
            {"role": role, "content": " ".join(rng.choices(words, k=rng.randint(1, 5)))}
            for _ in range(rng.randint(1, 4))
            for role in ("user", "assistant")
        ]
        if turns[-1]["content"].strip():
            yield [*system, *turns]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_rendered_once_is_rendered_answer_by_answer(family: Family) -> None:
    """The naive twin renders each answer's prompt and the conversation up to it with transformers' own call."""
    template = chat_template(family)
    options = {**family.variables, "strftime_now": template.variables["strftime_now"]}

    def asked(messages: list[Message], ask: bool) -> str:
        formed = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]
        chosen: Any = formed if template.form.parts else messages
        return str(template.tokenizer.apply_chat_template(chosen, tokenize=False, add_generation_prompt=ask, **options))

    for talk in talks(25, seed=len(family.template)):
        try:
            found = given(template.rendered(Conversation(talk), Unused()))
        except TemplateRefused:
            continue
        numbers = [i for i, m in enumerate(talk) if m["role"] == "assistant" and m["content"].strip()]
        assert len(found) == len(numbers)
        for (before, answer), number in zip(found, numbers, strict=True):
            whole, prompt = asked(talk[: number + 1], ask=False), asked(talk[:number], ask=True)
            assert whole.startswith(before + answer) and talk[number]["content"].strip() in answer
            # What the answer was given is what a server gives, but for a block that says there is no reasoning.
            head = re.sub(r"<think>\s*</think>\n*$", "", before)
            assert prompt.startswith(head) and len(prompt) - len(head) <= len("<think>\n\n</think>\n\n")


def test_most_templates_are_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many answers a plain conversation has."""
    once = [name for name, family in FAMILIES.items() if chat_template(family).frame]
    assert {"smollm2", "llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3_2507", "gemma3", "cohere2"} <= set(once)
    template = chat_template(FAMILIES["smollm2"])
    assert template.frame == ("<|im_start|>assistant\n", "<|im_end|>")
    calls: list[int] = []
    real = template._render
    monkeypatch.setattr(template, "_render", lambda *args, **more: calls.append(1) or real(*args, **more))
    assert len(template.rendered(Conversation(TALK * 10), Unused())[0].spans) == 20 and len(calls) == 1


def test_a_template_that_prints_the_date_prints_the_one_it_is_given() -> None:
    """Today's without one."""
    for name, printed in (("llama3_2", "Today Date: 02 Jan 2026"), ("gpt_oss", "Current date: 2026-01-02")):
        made = chat_template(FAMILIES[name])
        assert printed in rendered(made, {"messages": TALK})[0].text
        today = ChatTemplate(made.tokenizer, made.end_ids)
        assert printed not in rendered(today, {"messages": TALK})[0].text


def test_the_date_of_a_template_is_in_the_pin(tmp_path: Path) -> None:
    """As run.yaml has it, with its provenance: the tokens of a run are the same on any day."""
    words = tokenizer(source(FAMILIES["llama3_2"]))
    words.save_pretrained(tmp_path / "verifier")
    shutil.copy(Path(str(files("speculators.assets"))) / "tiny" / "config.json", tmp_path / "verifier")
    place = ["verifier=hf", f"verifier.name_or_path={tmp_path / 'verifier'}", "data=jsonl", "data.path=x"]
    for name, chosen, printed in (
        ("given", ["data.chat_template_date='2031-02-03'"], "03 Feb 2031"),
        ("own", [], "01 Jan 2026"),
    ):
        pinned([*place, *chosen], tmp_path / name)
        pin = load(tmp_path / name)
        assert f"chat_template_date: '{pin.run.data.chat_template_date}'" in (tmp_path / name / "run.yaml").read_text()
        assert pin.sources["data.chat_template_date"].startswith("override" if chosen else "conf/data/jsonl.yaml:")
        made = ChatTemplate.of(pin.run.verifier, pin.run.data)
        assert f"Today Date: {printed}" in made.tokenizer.decode(made.prompt(TALK[:1]))


def test_variables_reach_the_template() -> None:
    """Those that Qwen3 and gpt-oss know."""
    made = chat_template(FAMILIES["qwen3_nothink"])
    assert made.tokenizer.decode(made.prompt(TALK[:1])).endswith("assistant\n<think>\n\n</think>\n\n")
    effort = ChatTemplate(tokenizer(source(FAMILIES["gpt_oss"])), variables={"reasoning_effort": "high"})
    assert "Reasoning: high" in rendered(effort, {"messages": TALK})[0].text


@pytest.mark.parametrize("marked", [True, False])
def test_the_embedded_template_with_its_marks_and_without(marked: bool, template: ChatTemplate) -> None:
    """Both ways supervise the same tokens, as transformers' own mask does; a cut answer lacks its end."""
    text = str(template.tokenizer.chat_template)
    made = tokenizer(text if marked else re.sub(r"{%-? *(end)?generation *-?%}", "", text))
    ours = ChatTemplate(made, template.end_ids)
    assert ours.marked is marked
    (whole,) = documents(ours, TALK)
    assert answers(made, whole) == [f"{answer}<|im_end|>" for answer in ANSWERS]
    theirs: Any = template.tokenizer.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    (embedded,) = documents(template, TALK)
    assert (embedded.tokens, embedded.supervised) == (theirs["input_ids"], [bool(m) for m in theirs["assistant_masks"]])
    (cut,) = documents(ours, TALK, truncated=True)
    assert answers(made, cut) == [f"{ANSWERS[0]}<|im_end|>", ANSWERS[1]]
    assert cut.tokens == whole.tokens[: len(cut.tokens)]


@pytest.mark.parametrize("blank", ["", " \n"])
@pytest.mark.parametrize("place", [1, 3])
def test_a_blank_answer_teaches_nothing(blank: str, place: int) -> None:
    """The other answer of the conversation still does."""
    template = chat_template(FAMILIES["llama3"])
    talk = [m | {"content": blank} if i == place else m for i, m in enumerate(TALK)]
    left = ANSWERS[1 if place == 1 else 0]
    found = [text for d in documents(template, talk) for text in answers(template.tokenizer, d)]
    assert found == [f"{left}<|eot_id|>"]


def test_a_template_that_refuses_says_so() -> None:
    """Its own exception, what its program stumbles over, and an answer that is not rendered as it is."""
    for broken in ("{{ raise_exception('no system, please') }}", "{{ messages[0].content + none }}", "{{ 1 / 0 }}"):
        with pytest.raises(TemplateRefused, match="that the chat template refuses"):
            documents(ChatTemplate(tokenizer(broken)), TALK)
    with pytest.raises(TemplateRefused, match="leaves out or changes"):
        documents(ChatTemplate(tokenizer("{% for m in messages %}{{ m.content | upper }}{% endfor %}")), TALK)


def test_a_turn_that_ends_in_plain_text_has_no_end_to_learn() -> None:
    """The line break between turns is the template's, not the verifier's."""
    made = tokenizer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    found = given(ChatTemplate(made).rendered(Conversation(TALK), Unused()))
    assert [answer.removeprefix("assistant: ") for _, answer in found] == ANSWERS


def test_a_tokenizer_without_offsets_is_refused(template: ChatTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are found by the characters that a token stands for."""
    made = AutoTokenizer.from_pretrained(template.tokenizer.name_or_path)
    monkeypatch.setattr(type(made), "is_fast", False)
    with pytest.raises(ValueError, match="returns no character offsets"):
        documents(ChatTemplate(made), TALK)
