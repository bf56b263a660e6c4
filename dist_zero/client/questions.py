"""Questions that are asked again until they are answered, each under a number of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dist_zero_common.clock import Clock
from dist_zero_common.errors import OperatorError
from dist_zero_common.protocol.messages import Message

ANSWER_SECONDS_MAX = 300.0
"""How long any question waits for its answer before it is an error."""
ASK_AGAIN_SECONDS = 2.0
ASK_AGAIN_SECONDS_MAX = 20.0


class Questions:
    """The questions that one client has open. `program` is what they are about, for errors."""

    def __init__(self, program: str, clock: Clock, send: Callable[[str, Message], None]) -> None:
        self.failure: BaseException | None = None
        """Why nothing is answered any more, if so."""
        self._program, self._clock, self._send = program, clock, send
        self._newest = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}

    @property
    def waiting(self) -> int:
        """How many questions wait for their answers."""
        return len(self._answers)

    def next_number(self) -> int:
        """A number for a question, given once."""
        self._newest += 1
        return self._newest

    async def ask(
        self,
        question: Callable[[int], tuple[str, Message]],
        what: str,
        *,
        number: int | None = None,
        patience: float = ASK_AGAIN_SECONDS,
    ) -> Any:
        """Ask until answered, for the first time again after `patience` seconds. `question` gives inbox and
        message for a number. Raises `RequestError` when refused, `OperatorError` when nobody answers."""
        self.check()
        number = self.next_number() if number is None else number
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        give_up_at = self._clock.monotonic() + ANSWER_SECONDS_MAX
        try:
            while self._clock.monotonic() < give_up_at:
                self._send(*question(number))
                done, _ = await asyncio.wait([answer], timeout=patience)
                if done:
                    return answer.result()
                patience = min(patience * 2, ASK_AGAIN_SECONDS_MAX)
        finally:
            del self._answers[number]
            answer.cancel()
        raise OperatorError(
            f"nobody answered within {ANSWER_SECONDS_MAX:g} s when program {self._program!r} was asked for {what}:"
            " its scheduler, sequencer or a node is down or far behind"
        )

    def answer(self, number: int, answer: object) -> None:
        """The answer has come; a second one, and one to a question that was given up, is dropped."""
        future = self._answers.get(number)
        if future is not None and not future.done():
            future.set_result(answer)

    def refuse(self, number: int, error: Exception) -> None:
        """There will be no answer to this one."""
        future = self._answers.get(number)
        if future is not None and not future.done():
            future.set_exception(error)

    def fail(self, error: BaseException) -> None:
        """There will be no answer to any: all that wait, and all later ones, raise `error`."""
        self.failure = error
        for future in self._answers.values():
            if not future.done():
                future.set_exception(error)

    def check(self) -> None:
        """Raise what ended all this, if something has."""
        if self.failure is not None:
            raise self.failure
