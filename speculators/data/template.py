"""Renders conversations with the verifier's chat template, and marks the text that the verifier would generate.

The span of an answer is the rendering of the conversation up to and including it, minus the prompt that a server would
render from the messages before it, up to the token at which the verifier stops. A template with `{% generation %}`
marks its answers itself. Some templates render earlier turns differently once a later one follows (Qwen3 omits the
thinking); such an answer becomes a separate document, in the context in which it was generated.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from operator import itemgetter
from os.path import commonprefix
from typing import Any

from transformers import PreTrainedTokenizerBase

from speculators.data.conversations import Conversation, Message, is_answer
from speculators.data.renderer import TALK, Renderer, Span, TemplateRefused
from speculators.data.unused import Unused
from speculators.settings.data import DataSettings
from speculators.verifier.settings import VerifierSettings
from speculators.verifier.tokenizer import end_ids, load_tokenizer

# What a template renders for absent reasoning; Qwen3: <think>\n\n</think>\n\n.
EMPTY_BLOCK = re.compile(r"(\s*<(\w+)>\s*</\2>)\n*")
TAG = re.compile(r"<[^<>\s]*>|\[[^\[\]\s]*\]")
LONGEST_BLOCK = 64
THINK = re.compile(r"</?think>")
LEFT_OUT = "whose answer the chat template leaves out or changes"


@dataclass(frozen=True, slots=True)
class Document:
    """Tokens that attend only to each other.

    Attributes:
        tokens: token ids.
        supervised: for each token, whether it is part of an answer.
    """

    tokens: Sequence[int]
    supervised: Sequence[bool]


@dataclass(frozen=True)
class Rendered:
    """A document before it is tokenised.

    Attributes:
        text: all of it.
        spans: start and end of what the verifier would generate, in characters, ascending.
        truncated: the last answer was cut, so its text here is incomplete.
    """

    text: str
    spans: list[Span]
    truncated: bool = False


class ChatTemplate(Renderer):
    """A tokenizer's chat template, with the places of the answers in what it renders.

    Args:
        tokenizer: the verifier's.
        end_ids: tokens at which the verifier stops writing.
        variables: passed to the template besides the messages, e.g. `enable_thinking`.
        today: date that the template uses as today's; None is the current date.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Iterable[int] = (),
        variables: Mapping[str, Any] | None = None,
        today: date | None = None,
    ) -> None:
        super().__init__(tokenizer, variables or {}, today)
        self.end_ids = frozenset(end_ids)
        self.ends = [str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(self.end_ids)]
        self.special_ids = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)

    @classmethod
    def of(cls, verifier: VerifierSettings, data: DataSettings) -> "ChatTemplate":
        """The chat template of a run's verifier, with the run's template variables.

        Raises:
            ValueError: the tokenizer cannot be loaded, or has no template.
        """
        tokenizer = load_tokenizer(verifier)
        today = None if data.chat_template_date is None else date.fromisoformat(data.chat_template_date)
        return cls(tokenizer, end_ids(verifier, tokenizer), data.chat_template_kwargs, today)

    def prompt(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> list[int]:
        """Token ids of `messages` and of the start of an answer.

        Raises:
            TemplateRefused: the template raised.
        """
        text, _ = self._render(messages, tools, ask=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def message(self, answer: Sequence[int]) -> Message:
        """Convert an answer to the message that a chat client keeps: its text, and its reasoning separately.

        Args:
            answer: token ids, as the verifier wrote them.
        """
        tokens = list(answer[:-1] if answer and answer[-1] in self.end_ids else answer)
        text = str(self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
        heading, opening, middle, closing = self.marks
        text = text.strip().removesuffix(closing)
        if middle and middle in text:
            reasoning, _, text = text.partition(middle)
            reasoning = reasoning.strip().removeprefix(opening).strip()
            return {"role": "assistant", "content": text.strip(), "reasoning": reasoning}
        return {"role": "assistant", "content": text.removeprefix(heading).strip()}

    def rendered(self, conversation: Conversation, left_out: Unused) -> list[Rendered]:
        """A conversation's documents: one, or several where the template renders earlier turns differently later.

        Args:
            conversation: has an answer.
            left_out: counts what the template does not render of answers that are still usable.

        Raises:
            TemplateRefused: no document can be made.
        """
        if (whole := self._at_once(conversation)) is not None:
            return [whole]
        found = (self._answer(conversation, i, left_out) for i, m in enumerate(conversation.messages) if is_answer(m))
        answers = [answer for answer in found if answer is not None]
        if not answers:
            raise TemplateRefused(LEFT_OUT)
        documents = []
        while answers:
            # An answer belongs to the last document that begins with its prompt and the answer itself.
            last = answers[-1]
            fits = [last.text.startswith(a.text[: a.spans[-1][1]]) for a in answers]
            spans = [span for a, fitting in zip(answers, fits, strict=True) if fitting for span in a.spans]
            spans = [(start, self._stop(last.text, end)) for start, end in spans]
            documents.append(Rendered(last.text, spans, truncated=conversation.truncated and not documents))
            answers = [a for a, fitting in zip(answers, fits, strict=True) if not fitting]
        return documents[::-1]

    def tokenised(self, documents: Sequence[Rendered]) -> list[Document]:
        """Documents as tokens, in order; those of one call are tokenised together.

        Raises:
            ValueError: the tokenizer does not say which characters a token stands for.
        """
        if not self.tokenizer.is_fast:
            name = type(self.tokenizer).__name__
            raise ValueError(
                f"verifier.name_or_path: its tokenizer ({name}) returns no character offsets, which "
                "locate the answers; use a fast tokenizer"
            )
        # The rendered text already contains the special tokens.
        texts = [d.text for d in documents]
        if not texts:
            return []
        out = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        made = zip(documents, out["input_ids"], out["offset_mapping"], strict=True)
        return [self._document(rendered, tokens, offsets) for rendered, tokens, offsets in made]

    def _at_once(self, conversation: Conversation) -> Rendered | None:
        """One rendering for all answers, if it certainly renders each as it was generated; else None."""
        messages = conversation.messages
        plain = all(m.keys() == {"role", "content"} and not THINK.search(m["content"]) for m in messages)
        if self.frame is None or not plain or conversation.tools or any(m["role"] == "tool" for m in messages):
            return None
        text, blocks = self._render(messages, None)
        written = [m for m in messages if m["role"] == "assistant"]
        opening, closing = self.frame
        if text.count(opening) != len(written) or self.marked and len(blocks) != len(written):
            return None
        spans, at = [], 0
        for number, message in enumerate(written):
            at = text.index(opening, at) + len(opening)
            content = message["content"]
            # Some templates trim white space.
            ends = [at + len(c + closing) for c in (content, content.strip()) if text.startswith(c + closing, at)]
            if not ends:
                return None
            if is_answer(message):
                spans.append(blocks[number] if self.marked else (at, ends[0]))
        return Rendered(text, spans, conversation.truncated)

    @cached_property
    def frame(self) -> tuple[str, str] | None:
        """The text before and after an answer, if the template only appends as a conversation grows; else None."""
        try:
            before, asked = self._render(TALK[:1], None)[0], self._render(TALK[:1], None, ask=True)[0]
            first = self._answer(Conversation(TALK[:2]), 1, Unused())
            whole = self._render(TALK, None)[0]
        except TemplateRefused:
            return None
        if first is None or not asked.startswith(before) or not first.text.startswith(asked + TALK[1]["content"]):
            return None
        opening, end = asked[len(before) :], first.spans[-1][1]
        closing = first.text[len(asked) + len(TALK[1]["content"]) : end]
        return (opening, closing) if opening and closing and whole.startswith(first.text[:end]) else None

    @cached_property
    def marks(self) -> tuple[str, str, str, str]:
        """The text generated before an answer's text, before its reasoning, between the two, and before its end."""
        answer, reasoning = TALK[1], "zeroth"
        found = []
        for message in (answer, answer | {"reasoning": reasoning}):
            try:
                made = self._answer(Conversation([TALK[0], message]), 1, Unused())
            except TemplateRefused:
                made = None
            written = "".join(made.text[a:b] for a, b in made.spans) if made else ""
            found.append(written.partition(answer["content"]))
        (heading, _, closing), (before, *_) = found
        opening, _, middle = before.partition(reasoning)
        end = next((end for end in self.ends if closing.rstrip().endswith(end)), "")
        return heading.strip(), opening.strip(), middle.strip(), closing.rstrip().removesuffix(end).strip()

    def _answer(self, conversation: Conversation, number: int, left_out: Unused) -> Rendered | None:
        """The conversation up to an answer, with the spans of that answer; None if the template does not render it."""
        message, before = conversation.messages[number], conversation.messages[:number]
        text, blocks = self._render([*before, message], conversation.tools)
        prompt, _ = self._render(before, conversation.tools, ask=True)
        start = self._start(prompt, text)
        if "reasoning" not in message:
            around = EMPTY_BLOCK.finditer(text, max(0, start - LONGEST_BLOCK), start + LONGEST_BLOCK)
            start = next((m.end() for m in around if m.start() <= start < m.end(1)), start)
        ends = [at + len(end) for end in self.ends if (at := text.find(end, start)) >= 0]
        span = start, min(ends, default=max(start, len(text.rstrip())))
        spans = [(a, b) for a, b in blocks if b > start] if self.marked else [span]
        written = "".join(text[a:b] for a, b in spans)
        # Some templates leave out or trim reasoning that stands inside an answer; the rest must be there.
        said = [part.strip() for part in THINK.split(message["content"])]
        if said[-1] not in written or not spans:
            raise TemplateRefused(LEFT_OUT)
        if message.get("reasoning", "").strip() not in written or any(part not in written for part in said):
            left_out.add("answers without their reasoning", conversation.place)
        if any(call["function"]["name"] not in written for call in message.get("tool_calls", [])):
            left_out.add("answers without their tool calls", conversation.place)
            return Rendered(text, spans) if said[-1] else None
        return Rendered(text, spans)

    def _stop(self, text: str, end: int) -> int:
        """The end of an answer including its stop token, also where that token begins the next turn, as in GLM-4.5."""
        if any(text.endswith(token, 0, end) for token in self.ends):
            return end
        return next((end + len(token) for token in self.ends if text.startswith(token, end)), end)

    def _start(self, prompt: str, text: str) -> int:
        """The start of an answer in a text, after the common prefix with its prompt."""
        if text.startswith(prompt):
            return len(prompt)
        shared = len(commonprefix((prompt, text)))
        # A prompt that continues with <think> and an answer that begins with <b> share a character, not a tag.
        tags = TAG.finditer(prompt, max(0, shared - LONGEST_BLOCK), shared + LONGEST_BLOCK)
        return next((tag.start() for tag in tags if tag.start() < shared < tag.end()), shared)

    def _document(self, rendered: Rendered, tokens: list[int], offsets: list[Span]) -> Document:
        supervised, first = [False] * len(tokens), 0
        for start, end in rendered.spans:
            first = bisect_right(offsets, start, first, key=itemgetter(1))
            last = bisect_left(offsets, end, first, key=itemgetter(0))
            supervised[first:last] = [a < b for a, b in offsets[first:last]]
        document = Document(tokens, supervised)
        return _without_end(document, self.special_ids) if rendered.truncated else document


def _without_end(document: Document, special: set[int]) -> Document:
    """Drop the end-of-turn token of a truncated answer, and what follows: the verifier did not generate them."""
    last = max((i for i, s in enumerate(document.supervised) if s), default=-1)
    if document.tokens[last] in special:
        last -= 1
    return Document(document.tokens[: last + 1], document.supervised[: last + 1])
