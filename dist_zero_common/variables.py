"""One variable of the environment: how it is declared, and how its text becomes a value.

Each `parse_...` takes the text of a variable, and raises `ValueError` for one that makes no sense; `Variable.read` then
says what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Generic, TypeVar

from dist_zero_common.errors import SettingsError
from dist_zero_common.ids import checked_name
from dist_zero_common.log import LEVELS

PORT_MAX = 65_534
"""The one behind it is for a child of whoever has it."""
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}\Z|[0-9A-Fa-f:.]{2,45}\Z")
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,100}=[A-Za-z0-9._-]{1,100}\Z")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Variable(Generic[Value]):
    """One variable of the environment.

    `parse` turns its text into the value, raising `ValueError` for text that is not `allowed`. A `secret` one
    is never repeated in an error.
    """

    name: str
    default: str
    meaning: str
    allowed: str
    parse: Callable[[str], Value]
    secret: bool = False

    def read(self, text: str) -> Value:
        """What `text` stands for; raises `SettingsError` naming variable, text and what is allowed."""
        try:
            return self.parse(text)
        except ValueError:
            shown = "its value" if self.secret else repr(text)
            raise SettingsError(f"{self.name}: {shown} makes no sense; allowed is {self.allowed}") from None


def variable(
    name: str,
    *,
    default: str,
    meaning: str,
    allowed: str,
    parse: Callable[[str], Value],
    secret: bool = False,
) -> Value:
    """The field of a dataclass that is set by this variable; its default is read as any other text."""
    declared = Variable(name, default, meaning, allowed, parse, secret)
    made: Value = field(default=declared.read(default), metadata={"variable": declared}, repr=not secret)
    return made


def parse_broker_url(text: str) -> str:
    """An address of RabbitMQ, or the empty text."""
    if text and not text.startswith(("amqp://", "amqps://")):
        raise ValueError(text)
    return text


def parse_image(text: str) -> str:
    """An image's name."""
    if not text or any(character.isspace() for character in text):
        raise ValueError(text)
    return text


def parse_host(text: str) -> str:
    """A host's name or address, or the empty text."""
    if text and not _HOST.match(text):
        raise ValueError(text)
    return text


def parse_http_url(text: str) -> str:
    """An address of HTTP, or the empty text."""
    if text and not text.startswith(("http://", "https://")):
        raise ValueError(text)
    return text


def parse_name(text: str) -> str:
    """A name of ours, or the empty text."""
    try:
        return checked_name("system", text) if text else ""
    except SettingsError as wrong:
        raise ValueError(text) from wrong


def parse_count(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise ValueError(text)
        return number

    return parse


def parse_port_or_none(text: str) -> int | None:
    """A port to listen on, 0 for any; None for the empty text."""
    return parse_count(0, PORT_MAX)(text) if text else None


def parse_address(text: str) -> str:
    """An address to listen on."""
    if not re.fullmatch(r"[0-9A-Za-z.:-]+", text):
        raise ValueError(text)
    return text


def parse_numbers(text: str) -> tuple[tuple[str, float], ...]:
    """Pairs of a name and a number that is not negative."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    numbers = tuple((name.strip(), float(number)) for name, _, number in pairs)
    if not all(isfinite(number) and number >= 0 for _, number in numbers):
        raise ValueError
    return numbers


def parse_amount(text: str) -> float:
    """A number that is not negative."""
    amount = float(text)
    if not (isfinite(amount) and amount >= 0):
        raise ValueError(text)
    return amount


def parse_words(text: str) -> tuple[str, ...]:
    """Words with commas between them."""
    words = tuple(part.strip() for part in text.split(",") if part.strip())
    if any(character.isspace() for word in words for character in word):
        raise ValueError(text)
    return words


def parse_one_of(*words: str) -> Callable[[str], str]:
    """A parser of these words, whatever their case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(text)
        return text.lower()

    return parse


def parse_path_or_none(text: str) -> Path | None:
    """A path; None for the empty text."""
    return Path(text) if text else None


def parse_labels(text: str) -> tuple[str, ...]:
    """Labels of a machine, `name=value` with commas between them. Raises `ValueError`."""
    labels = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(_LABEL.match(label) for label in labels):
        raise ValueError(text)
    return labels


def parse_users(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs of a user and a password."""
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if not all(name and password for name, _, password in pairs):
        raise ValueError(text)
    return tuple((name, password) for name, _, password in pairs)


def parse_store(text: str) -> Path | str | None:
    """A directory, or the URL of one or of a bucket; None for the empty text."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text) if text else None
    if scheme not in ("s3", "file") or not rest:
        raise ValueError(text)
    return text


def parse_yes_or_no(text: str) -> bool:
    """Whether it says yes."""
    if text.lower() not in ("yes", "no"):
        raise ValueError(text)
    return text.lower() == "yes"


def parse_log_level(text: str) -> str:
    """A level of log events."""
    if text.lower() not in LEVELS:
        raise ValueError(text)
    return text.lower()
