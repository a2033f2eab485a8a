"""Processes that render a large source: each a part of it, and together the documents that one process makes, in its order."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from speculators.data.rendering import rendered
from speculators.data.sequences import Columns, mapped, write_columns
from speculators.data.spool import Spool, conversation_of
from speculators.data.template import ChatTemplate, Document
from speculators.data.unused import Unused
from speculators.settings.data import DataSettings
from speculators.utils.process import module_command
from speculators.verifier.settings import VerifierSettings

# Conversations for each process, since one takes some seconds to start; and the most processes.
PER_PROCESS, MOST_PROCESSES = 10_000, 16
SHOWN = 2000  # characters of what a failed process wrote


def processes_for(conversations: int) -> int:
    """How many processes to start for some conversations: at most one for each core that this process may use."""
    if sys.platform == "win32":  # where a process inherits no open file
        return 0
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(conversations // PER_PROCESS, cores, MOST_PROCESSES)


@contextmanager
def rendering_processes(
    spool: Spool, sides: Sequence[Sequence[int]], verifier: VerifierSettings, data: DataSettings, processes: int
) -> "Iterator[RenderingProcesses]":
    """Start processes, and end them when the block ends.

    Args:
        spool: the conversations.
        sides: indices of the conversations of each side, in order; each process renders a part of every side.
        verifier: whose chat template is used.
        data: variables of the template, and max_length.
        processes: how many.
    """
    shared = data.model_dump(mode="json", include=set(DataSettings.model_fields))
    settings = {"verifier": verifier.model_dump(mode="json"), "data": shared}
    numbers = (np.array_split(np.array(side, np.int64), processes) for side in sides)
    with ExitStack() as stack:
        parts = []
        for part in zip(*numbers, strict=True):
            files = [stack.enter_context(TemporaryFile()) for _ in range(5)]
            parts.append(_Part(spool, part, settings, files))
            stack.callback(parts[-1].end)
        yield RenderingProcesses(parts)


class RenderingProcesses:
    """Running processes.

    Args:
        parts: each process with its files, in the order of their documents.
    """

    def __init__(self, parts: "Sequence[_Part]") -> None:
        self._parts = parts

    def documents(self, side: int, unused: Unused, left_out: Unused, cut: Counter[str]) -> Iterator[Document]:
        """As `rendered`, of the conversations of a side.

        Raises:
            RuntimeError: a process failed; the message has what it wrote.
        """
        for part in self._parts:
            found = part.results[side]
            unused.include(Unused(**found["unused"]))
            left_out.include(Unused(**found["left_out"]))
            cut.update(found["cut"])
            first = sum(len(earlier["lengths"]) for earlier in part.results[:side])
            yield from map(part.columns.document, range(first, first + len(found["lengths"])))


class _Part:
    """A process that renders some conversations of each side.

    Args:
        spool: all conversations.
        sides: indices of those to render.
        settings: of the template.
        files: five, for what it reads and writes.
    """

    def __init__(
        self, spool: Spool, sides: Sequence[np.ndarray], settings: Mapping[str, Any], files: Sequence[IO[bytes]]
    ) -> None:
        self._messages, job, self._tokens, self._supervised, self._results = files
        job.write(json.dumps({**settings, "sides": [len(numbers) for numbers in sides]}).encode() + b"\n")
        for numbers in sides:
            job.write(spool.places(numbers).tobytes())
        job.seek(0)
        descriptors = [file.fileno() for file in (spool.file, *files[1:])]
        self._process = subprocess.Popen(
            [*module_command(sys.executable, __name__), *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=self._messages,
            stderr=subprocess.STDOUT,
            # Its tokenizer would start a thread for each core.
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """What came of each side besides tokens; waits for the process."""
        if code := self._process.wait():
            self._messages.seek(0)
            said = self._messages.read().decode(errors="replace")[-SHOWN:]
            raise RuntimeError(f"a process that renders conversations ended with exit code {code}:\n{said}")
        self._results.seek(0)
        return json.loads(self._results.read())

    @cached_property
    def columns(self) -> Columns:
        """The documents of all sides."""
        lengths = [length for side in self.results for length in side["lengths"]]
        start_D = np.cumsum([0, *lengths])
        return Columns(mapped(self._tokens, np.int32), mapped(self._supervised, np.bool_), start_D)

    def end(self) -> None:
        """End the process if it runs."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Render what a `_Part` asks for; the arguments are the descriptors of its files."""
    conversations, job, tokens, supervised, results = (os.fdopen(int(number), "rb+") for number in sys.argv[1:])
    settings = json.loads(job.readline())
    data = DataSettings.model_validate(settings["data"])
    template = ChatTemplate.of(VerifierSettings.model_validate(settings["verifier"]), data)
    found = []
    for size in settings["sides"]:
        places = np.frombuffer(job.read(16 * size), np.int64).reshape(size, 2)
        # The file's position is shared with the run, which moves it.
        written = (os.pread(conversations.fileno(), int(end - start), int(start)) for start, end in places)
        side = map(conversation_of, written)
        unused, left_out, cut = Unused(), Unused(), Counter[str]()
        lengths = write_columns(rendered(side, template, data.max_length, unused, left_out, cut), tokens, supervised)
        found.append({"lengths": lengths.tolist(), "unused": vars(unused), "left_out": vars(left_out), "cut": cut})
    results.write(json.dumps(found).encode())
    for file in (tokens, supervised, results):
        file.flush()


if __name__ == "__main__":
    main()
