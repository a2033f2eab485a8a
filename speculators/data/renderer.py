"""Renders messages with a verifier's chat template, in the variant of OpenAI's format that the template expects."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from speculators.data.conversations import REASONING, Message

Span = tuple[int, int]
MARK = re.compile(r"{%-?\s*generation\s*-?%}")
INLINE = re.compile(r"\s*<think>\s*(.*?)\s*</think>\s*(.*)", re.DOTALL)
REFUSED = "that the chat template refuses"

# Probe messages: their rendering shows how a template works.
TALK: list[Message] = [
    {"role": role, "content": text}
    for role, text in (("user", "first"), ("assistant", "second"), ("user", "third"), ("assistant", "fourth"))
]
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "look_up", "arguments": {"word": "fifth"}}}
TOOL_TALK: list[Message] = [
    TALK[0],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "sixth", "name": "look_up", "tool_call_id": "abcdefghi"},
    TALK[1],
]


@dataclass(frozen=True)
class Form:
    """The variant of OpenAI's message format that a template expects.

    Attributes:
        parts: content as a list of parts, as vision models' templates expect it.
        null_content: no content beside a tool call is None, not an empty text.
        text_arguments: a tool call's arguments as JSON text, not as a dict.
    """

    parts: bool = False
    null_content: bool = False
    text_arguments: bool = False


class TemplateRefused(ValueError):
    """The template raised on a conversation, or does not render its answers; the text is one of a few fixed reasons."""


class Renderer:
    """A tokenizer's chat template as a program.

    Args:
        tokenizer: the verifier's.
        variables: passed to the template besides the messages, e.g. `enable_thinking`.
        today: date that the template uses as today's; None is the current date.

    Attributes:
        marked: it marks its answers itself.
        reasoning: its variables for an answer's reasoning.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any], today: date | None) -> None:
        self.tokenizer = tokenizer
        source = str(tokenizer.chat_template)
        self.marked = MARK.search(source) is not None
        self.reasoning = [name for name in REASONING if re.search(rf"\b{name}\b", source)]
        self.variables = {**tokenizer.special_tokens_map, **variables}
        if today is not None:
            self.variables["strftime_now"] = today.strftime

    @cached_property
    def form(self) -> Form:
        """The form of messages for which the template renders the most content."""
        forms = [Form(parts=parts) for parts in (False, True)]
        parts = max(forms, key=lambda form: sum(m["content"] in self._tried(TALK, form) for m in TALK)).parts
        forms = [Form(parts, null, text) for text in (False, True) for null in (True, False)]
        shown = (f for f in forms if "look_up" in (t := self._tried(TOOL_TALK, f)) and "fifth" in t and "None" not in t)
        return next(shown, Form(parts))

    def _tried(self, messages: list[Message], form: Form) -> str:
        try:
            return self._render(messages, None, form=form)[0]
        except TemplateRefused:
            return ""

    def _render(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, ask: bool = False, form: Form | None = None
    ) -> tuple[str, list[Span]]:
        """The rendered text, followed by the start of an answer if requested, and the spans that the template marks."""
        formed = [self._formed(m, form or self.form) for m in messages]
        try:
            found: Any = render_jinja_template(
                conversations=[formed],
                tools=[*tools] if tools else None,
                chat_template=self.tokenizer.get_chat_template(tools=tools),
                return_assistant_tokens_mask=self.marked,
                add_generation_prompt=ask,
                **self.variables,
            )
        # A template is third-party code of the verifier: it may raise any exception.
        except Exception as error:
            raise TemplateRefused(REFUSED) from error
        texts, blocks = found
        return texts[0], blocks[0] if blocks else []

    def _formed(self, message: Message, form: Form) -> Message:
        text, reasoning = message["content"], message.get("reasoning")
        # A template that gets the reasoning separately may render it with other tags than these.
        if self.reasoning and message["role"] == "assistant" and not reasoning and (found := INLINE.fullmatch(text)):
            reasoning, text = found.groups()
        content: Any = [{"type": "text", "text": text}] if form.parts else text
        made = {key: message[key] for key in ("role", "name", "tool_call_id") if key in message}
        if reasoning:
            made |= dict.fromkeys(self.reasoning, reasoning)
        if calls := message.get("tool_calls"):
            content = None if form.null_content and not text else content
            made["tool_calls"] = [_with_text(c) if form.text_arguments else c for c in calls]
        return made | {"content": content}


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments as OpenAI writes them."""
    function = call["function"]
    return call | {"function": function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
