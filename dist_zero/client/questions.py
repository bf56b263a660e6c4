"""Questions that are asked again until they are answered, each under a number of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dist_zero_common.clock import Clock
from dist_zero_common.errors import OperatorError
from dist_zero_common.protocol.messages.envelope import Message

ANSWER_SECONDS_MAX = 300.0
"""How long any question waits for its answer before it is an error."""
ASK_AGAIN_SECONDS = 2.0
ASK_AGAIN_SECONDS_MAX = 20.0


Question = Callable[[int], tuple[str, Message]]
"""Gives inbox and message for a number, as things are when it is asked: both may change while it waits."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A question that waits for its answer."""

    question: Question
    answer: asyncio.Future[Any]


class Questions:
    """The questions that one client has open. `subject` is what they are about, for errors."""

    def __init__(
        self,
        subject: str,
        clock: Clock,
        send: Callable[[str, Message], None],
        waiting_for: Callable[[], str] = str,
    ) -> None:
        """`waiting_for` says, for errors, what is known to keep answers from coming, if anything."""
        self.failure: BaseException | None = None
        """Why nothing is answered any more, if so."""
        self.on_again: Callable[[], None] = lambda: None
        """Called whenever a question had to be asked again: perhaps it goes to where nobody can answer it."""
        self._subject, self._clock, self._send, self._waiting_for = subject, clock, send, waiting_for
        self._newest = 0
        self._open: dict[int, _Open] = {}

    @property
    def waiting(self) -> int:
        """How many questions wait for their answers."""
        return len(self._open)

    def next_number(self) -> int:
        """A number for a question, given once."""
        self._newest += 1
        return self._newest

    async def ask(
        self,
        question: Question,
        what: str,
        *,
        number: int | None = None,
        patience: float = ASK_AGAIN_SECONDS,
    ) -> Any:
        """Ask until answered, for the first time again after `patience` seconds. Raises `RequestError` when
        refused, `OperatorError` when nobody answers."""
        self.check()
        number = self.next_number() if number is None else number
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[number] = _Open(question, answer)
        give_up_at = self._clock.monotonic() + ANSWER_SECONDS_MAX
        try:
            while self._clock.monotonic() < give_up_at:
                self._send(*question(number))
                done, _ = await asyncio.wait([answer], timeout=patience)
                if done:
                    return answer.result()
                patience = min(patience * 2, ASK_AGAIN_SECONDS_MAX)
                self.on_again()
        finally:
            del self._open[number]
            answer.cancel()
        reason = self._waiting_for() or "its scheduler, sequencer or a node is down or far behind"
        raise OperatorError(
            f"nobody answered within {ANSWER_SECONDS_MAX:g} s when {self._subject} was asked for {what}: {reason}"
        )

    def ask_all_again(self) -> None:
        """Ask all that are open once more, now: there is a new connection, or whom to ask has changed."""
        for number, each in self._open.items():
            self._send(*each.question(number))

    def answer(self, number: int, answer: object) -> None:
        """The answer has come; a second one, and one to a question that was given up, is dropped."""
        there = self._open.get(number)
        if there is not None and not there.answer.done():
            there.answer.set_result(answer)

    def refuse(self, number: int, error: Exception) -> None:
        """There will be no answer to this one."""
        there = self._open.get(number)
        if there is not None and not there.answer.done():
            there.answer.set_exception(error)

    def fail(self, error: BaseException) -> None:
        """There will be no answer to any: all that wait, and all later ones, raise `error`."""
        self.failure = error
        for there in self._open.values():
            if not there.answer.done():
                there.answer.set_exception(error)

    def check(self) -> None:
        """Raise what ended all this, if something has."""
        if self.failure is not None:
            raise self.failure
