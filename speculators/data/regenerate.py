"""Replaces every answer of conversations by the verifier's own, each conditioned on its earlier regenerated answers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from speculators.data.conversations import Conversation, Message
from speculators.data.template import ChatTemplate, Document, TemplateRefused
from speculators.data.unused import Unused
from speculators.settings.data import DataSettings

# The verifier's own answers to prompts, both as token ids, of the n-th sample; None where a server refuses the prompt.
Generate = Callable[[list[list[int]], int], Sequence[list[int] | None]]
NO_ROOM = "without an answer inside data.max_length"
REFUSED = "whose prompt the server of the answers refuses"
UNFINISHED = "whose answer did not end within data.regenerate_max_new_tokens"


@dataclass
class _Talk:
    """State of a conversation while its answers are regenerated.

    Attributes:
        conversation: as it is in the data.
        at: number of the data's messages that are processed.
        history: messages so far, with the verifier's answers.
        documents: prompts and answers in tokens.
    """

    conversation: Conversation
    at: int = 0
    history: list[Message] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)

    def ask(self) -> bool:
        """Advance to the next message to answer; False if there is none."""
        messages, asked = self.conversation.messages, False
        while self.at < len(messages) and not (asked and messages[self.at]["role"] == "assistant"):
            # Several answers in a row are replaced by one regenerated answer.
            if messages[self.at]["role"] != "assistant":
                self.history.append(messages[self.at])
                asked = True
            self.at += 1
        return asked

    def answered(self, answer: Message) -> None:
        """Append an answer; an original answer with tool calls is kept, since the tool results depend on it."""
        messages = self.conversation.messages
        following = messages[self.at + 1]["role"] if self.at + 1 < len(messages) else ""
        self.history.append(messages[self.at] if following == "tool" else answer)

    def add(self, prompt: list[int], answer: list[int]) -> None:
        """Add a document, or extend the last one if the prompt begins with it."""
        supervised = [False] * len(prompt)
        if self.documents and prompt[: len(self.documents[-1].tokens)] == self.documents[-1].tokens:
            earlier = self.documents.pop().supervised
            supervised[: len(earlier)] = earlier
        self.documents.append(Document(prompt + answer, supervised + [True] * len(answer)))


def regenerated(
    conversations: Iterable[Conversation],
    template: ChatTemplate,
    generate: Generate,
    sample: int,
    data: DataSettings,
    unused: Unused,
    unfinished: Unused,
) -> list[Document]:
    """Distinct documents of prompts and of the verifier's own answers, token for token as generated.

    Args:
        conversations: their answers are not read, but for calls of tools whose results follow.
        template: the verifier's.
        generate: generates the answers.
        sample: which of several answers to a prompt.
        data: max_length and the handling of an answer that did not end.
        unused: counts conversations without any document.
        unfinished: counts answers that did not end.
    """
    talks = [_Talk(c) for c in conversations]
    active = talks
    while active := [talk for talk in active if talk.ask()]:
        prompts = {id(talk): prompt for talk in active if (prompt := _prompt(talk, template, data, unused))}
        distinct = list(dict.fromkeys(map(tuple, prompts.values())))
        answers = dict(zip(distinct, generate([list(p) for p in distinct], sample), strict=True)) if distinct else {}
        going_on = []
        for talk in (t for t in active if id(t) in prompts):
            prompt = prompts[id(talk)]
            answer = answers[tuple(prompt)]
            if answer is None:
                if not talk.documents:
                    unused.add(REFUSED, talk.conversation.place)
                continue
            ended = bool(answer) and answer[-1] in template.end_ids
            if not ended:
                unfinished.add("answers", talk.conversation.place)
            if ended or data.regenerate_unfinished == "keep":
                talk.add(prompt, answer)
            elif not talk.documents:
                unused.add(UNFINISHED, talk.conversation.place)
            if ended:
                talk.answered(template.message(answer))
                going_on.append(talk)
        active = going_on
    documents = [d for talk in talks for d in talk.documents]
    return list({(tuple(d.tokens), tuple(d.supervised)): d for d in documents}.values())


def _prompt(talk: _Talk, template: ChatTemplate, data: DataSettings, unused: Unused) -> list[int]:
    """Token ids of the prompt to answer; empty if it cannot be rendered or is too long."""
    reason = NO_ROOM
    try:
        prompt = template.prompt(talk.history, talk.conversation.tools)
        if len(prompt) < data.max_length:
            return prompt
    except TemplateRefused as error:
        reason = str(error)
    if not talk.documents:
        unused.add(reason, talk.conversation.place)
    return []
