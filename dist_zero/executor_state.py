"""What executors do alike with their state, whatever they keep it in: when it may be saved, and how it is loaded.

State is loaded before the first step. All that is loaded is as of one epoch, and what follows it comes to one epoch,
too. Loading is gone through in slices; an executor that was left in the middle, or found something wrong, is good for
nothing, and says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from dist_zero.state import TableChange
from dist_zero_common.errors import InternalError

Keep = Callable[[int], bool]
"""Says of a hash whether it is wanted."""


class Loader(Protocol):
    """What an executor has taken in, by predecessor. Each method is to be gone through to its end."""

    def take(self, saves: Iterable[Iterable[TableChange]], keep: Keep | None, loose: bool) -> Iterator[None]:
        """Take in what is there behind a full save and the changes that follow it. Raises `MalformedMessage`."""
        ...

    def follow(
        self, number: int, saves: Iterable[Iterable[TableChange]], whole: bool, owns: Keep | None
    ) -> Iterator[None]:
        """Take in what predecessor `number` has saved since. `whole`: the first of the saves holds everything; then
        `owns` says which hashes are that predecessor's, if not all are. Raises `MalformedMessage`."""
        ...


class ExecutorState(ABC):
    """The part of an executor that is saved and loaded; see `Executor` for what the public methods promise."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._tracked = self._stepped = self._broken = False
        self._loaded: int | None = None

    @abstractmethod
    def _is_ahead(self) -> bool:
        """Whether a stage has gone beyond the newest finished epoch."""

    @abstractmethod
    def _frozen(self, tracked: bool) -> list[Iterator[TableChange | None]]:
        """By table: what changed, or all of it if nothing is `tracked`; as of now, to be gone through later."""

    @abstractmethod
    def _note_touched(self) -> None:
        """Forget what was touched; from now on, note it."""

    @abstractmethod
    def _settling(self, slices: Iterator[None]) -> Iterator[None]:
        """Go through these slices, which fill the tables, then compute the rest. Raises `MalformedMessage`."""

    def _begin_step(self) -> None:
        """From here on nothing is loaded any more."""
        if self._broken:
            raise InternalError("an executor goes on that could not load its state")
        self._stepped = True

    def save(self, everything: bool) -> list[TableChange]:
        """What changed since the last save or load, or all that there is."""
        return [change for change in self.freeze(everything) if change is not None]

    def freeze(self, everything: bool) -> Iterator[TableChange | None]:
        """The same, given out later and in slices."""
        if self._is_ahead():
            raise InternalError(
                "state is saved when every stage has reached the same epoch, and one is ahead"
            )
        frozen = self._frozen(self._tracked and not everything)
        self._track()
        return (change for each in frozen for change in each)

    def load(
        self,
        epoch: int,
        saves: Iterable[Iterable[TableChange]],
        keep: Keep | None = None,
        loose: bool = True,
    ) -> None:
        """Take in the state of a node as of `epoch`."""
        for _ in self.loading(epoch, saves, keep, loose):
            pass

    def loading(
        self,
        epoch: int,
        saves: Iterable[Iterable[TableChange]],
        keep: Keep | None = None,
        loose: bool = True,
    ) -> Iterator[None]:
        """The same in slices."""
        if self._loaded not in (None, epoch):
            raise InternalError("all state is loaded as of one epoch")
        return self._taking_in(epoch, self._loader.take(saves, keep, loose))

    def catching_up(
        self,
        epoch: int,
        number: int,
        saves: Iterable[Iterable[TableChange]],
        whole: bool,
        owns: Keep | None = None,
    ) -> Iterator[None]:
        """Take in what a node that was loaded has saved since, in slices."""
        return self._taking_in(epoch, self._loader.follow(number, saves, whole, owns))

    def _taking_in(self, epoch: int, slices: Iterator[None]) -> Iterator[None]:
        if self._stepped or self._broken:
            raise InternalError("state is loaded before the first step, and none behind some that was not")
        self._broken = True
        self._loaded = epoch
        yield from self._settling(slices)
        self._track()
        self._broken = False

    def _track(self) -> None:
        self._note_touched()
        self._tracked = True
