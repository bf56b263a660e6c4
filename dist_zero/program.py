"""`dz.Program`: the datasets and views a user declares, under a name; what becomes of them is `graph()`."""

from __future__ import annotations

import datetime as dt
import inspect
import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

from dist_zero.bridge.source import AppliedMessage, Decode, Key, Source, checked_source
from dist_zero.expr import checked, ops
from dist_zero.expr.location import Refused, located, shown_path, user_location
from dist_zero.expr.tables import Table, describe, duration_us, fresh_origins
from dist_zero.expr.walk import check_bounds, in_order
from dist_zero.invariant import Check, Invariant, checked_invariant
from dist_zero.row import Row, row_type_of, to_stored_row
from dist_zero.sample import Delete, Update
from dist_zero.types import Row as StoredRow
from dist_zero_common.errors import DataError, ProgramError, SettingsError, UserError
from dist_zero_common.ids import checked_name

Sampler = Callable[..., Iterable[Any]]
_S = TypeVar("_S", bound=Sampler)
_C = TypeVar("_C", bound=Check)
Transaction = list[tuple[str, StoredRow | Update | Delete]]
"""Writes made together: pairs of dataset name and stored row, or change of a row."""


class Program:
    """Datasets and views under one name.

    The name becomes part of queues and paths: lower-case letters, digits and hyphens. Datasets and views have names of
    lower-case letters, digits and underscores.
    """

    @located
    def __init__(self, name: str) -> None:
        try:
            self.name = checked_name("program", name)
        except (SettingsError, TypeError) as error:
            raise Refused(str(error)) from None
        self._datasets: dict[str, ops.Dataset] = {}
        self._views: dict[str, ops.View] = {}
        self._sources: dict[str, Source] = {}
        self._sampler: Sampler | None = None
        self._invariants: list[Invariant] = []

    @located
    def dataset(
        self,
        name: str,
        row: type[Row],
        *,
        key: str | Sequence[str] | None = None,
        broadcast: bool = False,
    ) -> Table:
        """Declare a collection of rows that users change.

        With a `key` (one column or several, none of them nullable) rows are put, updated and deleted by it; without,
        they can only be appended. `broadcast`: small, and copied to every node, so that joins with it move nothing.
        """
        self._check_name("dataset", name)
        if not (isinstance(row, type) and issubclass(row, Row)) or row is Row:
            raise Refused(f"dataset {name!r} needs a row class: class Flight(dz.Row): ..., got {row!r:.80}")
        columns = (key,) if isinstance(key, str) else None if key is None else tuple(key)
        relation = checked.dataset(name, row_type_of(row), columns, bool(broadcast), user_location())
        self._datasets[name] = relation
        return Table(relation, fresh_origins(len(relation.row_type)), name)

    @located
    def view(self, name: str, table: Table) -> Table:
        """Declare that `table` is to be kept, under this name; the result can be used in further views."""
        self._check_name("view", name)
        if not isinstance(table, Table):
            raise Refused(f"view {name!r} needs a table, got {type(table).__name__} {table!r:.80}")
        self._check_own(name, table._relation)
        check_bounds([*self._datasets.values(), *(v.relation for v in self._views.values()), table._relation])
        self._views[name] = ops.View(name, table._relation)
        return Table(table._relation, table._origins, name)

    @located
    def source(
        self,
        dataset: Table | str,
        *,
        queue: str,
        decode: Decode = "json",
        key: Key = None,
        set_aside: str | None = None,
        remember: str | dt.timedelta = "1d",
    ) -> None:
        """Declare that the messages of a RabbitMQ queue become rows of a dataset; `dist-zero bridge` brings them there,
        each exactly once.

        `decode`: `"json"`, `"msgpack"`, or a function from a message to a row, a mapping, several of these, or None.
        `key`: what tells a message from a copy of itself, if it is not its property message-id: a column that has it,
        or a function from a message to a text or number. What cannot be decoded is kept in the queue `set_aside` (by
        itself `<queue>.set-aside`), with the reason in a header. `remember`: how long copies are known.
        """
        name = dataset._name if isinstance(dataset, Table) else dataset
        relation = self._datasets.get(name) if isinstance(name, str) else None
        if relation is None or (isinstance(dataset, Table) and dataset._relation is not relation):
            raise Refused(
                f"source: {name!r:.80} is no dataset of program {self.name!r}; there are"
                f" {', '.join(self._datasets) or 'none'}"
            )
        source = checked_source(
            relation.name,
            relation.row_type,
            queue=queue,
            decode=decode,
            key=key,
            set_aside=set_aside,
            remember_us=duration_us(remember),
            location=user_location(),
        )
        for other in self._sources.values():
            if source.client_id == other.client_id:
                raise Refused(
                    f"source: queue {queue!r} is {'the' if queue == other.queue else 'too much like'} queue"
                    f" {other.queue!r} of the source at {other.location}; a queue has one source"
                )
        applied = self.dataset(source.applied, AppliedMessage, key="id")
        self.view(source.applied_view, applied)
        self._sources[source.queue] = source

    @property
    def sources(self) -> tuple[Source, ...]:
        """The queues that are bridged into this program."""
        return tuple(self._sources.values())

    @located
    def sample(self, generator: _S) -> _S:
        """Name the generator of input for runs without files, as a decorator::

            @app.sample
            def sample(rng):
                yield payments, Payment(card=1, amount=rng.randrange(100))

        It is called with a seeded `random.Random` and yields a pair (dataset, row), or a list of such pairs, which is
        one transaction. A row may be a mapping; `dz.Update` or `dz.Delete` in its place change a row that is there. A
        text is a line for whoever looks on. A generator with a second parameter, `everything`, is called with true
        there when all of its data is asked for, and may otherwise stop where it suffices for a look.
        """
        if self._sampler is not None:
            raise Refused(f"program {self.name!r} has a sample generator already")
        if not callable(generator):
            raise Refused("sample decorates a function: @app.sample, then def sample(rng): ...")
        self._sampler = generator
        return generator

    @property
    def has_sample(self) -> bool:
        """Whether `generate` can be called."""
        return self._sampler is not None

    def generate(self, data_seed: int, *, everything: bool = False) -> Iterator[Transaction | str]:
        """The transactions of the sample generator, the same for the same seed, and its lines for people; raises
        `DataError` for bad rows, and when there is no more than it gives anyway and `everything` is asked for."""
        if self._sampler is None:
            raise DataError(f"program {self.name!r} has no generator of input; decorate one with @app.sample")
        arguments: dict[str, Any] = {}
        if "everything" in inspect.signature(self._sampler).parameters:
            arguments["everything"] = everything
        elif everything:
            raise DataError(
                f"the sample generator of program {self.name!r} has one size: it takes no `everything`"
            )
        sampled = _located(self._sampler, self._sampler(random.Random(data_seed), **arguments))
        for number, yielded in enumerate(sampled, 1):
            if isinstance(yielded, str):
                yield yielded
                continue
            pairs = yielded if isinstance(yielded, list) else [yielded]
            try:
                yield [self._sampled(pair) for pair in pairs]
            except DataError as error:
                raise DataError(f"transaction {number} of the sample generator: {error}") from None

    @overload
    def invariant(self, first: _C, /) -> _C:
        """Its parameters name the views."""

    @overload
    def invariant(self, first: str | Table, /, *views: str | Table) -> Callable[[_C], _C]:
        """The decorator names the views."""

    @located
    def invariant(self, first: Any, /, *views: str | Table) -> Any:
        """Say what must always hold between views, as a decorator; `dist-zero test` checks it at every epoch::

            @app.invariant
            def money_is_neither_made_nor_lost(total):
                assert sum(row.cents for row in total) == 0

        The function is called with the rows of the views that its parameters name, in the views' order and as of one
        epoch. It says no by an exception, as `assert` raises, or by returning False. Views of other names than its
        parameters are given to the decorator: `@app.invariant("total")`.
        """
        location = user_location()

        def keep(check: _C, named: tuple[str, ...] = ()) -> _C:
            taken = [invariant.name for invariant in self._invariants]
            self._invariants.append(checked_invariant(check, named, [*self._views], taken, location))
            return check

        if not isinstance(first, str | Table):
            return keep(first)
        names = tuple(self._view_name(view) for view in (first, *views))
        return located(lambda check: keep(check, names))

    @property
    def invariants(self) -> tuple[Invariant, ...]:
        """What `dist-zero test` holds against every epoch, in the order of declaration."""
        return tuple(self._invariants)

    def graph(self) -> ops.Graph:
        """The whole program as plain data."""
        return ops.Graph(self.name, tuple(self._datasets.values()), tuple(self._views.values()))

    def explain(self, level: str | None = None) -> str:
        """The levels of the compiler as text, or one of them: program, normalised, plan, partitioned; or `c`, what the
        native executor compiles."""
        from dist_zero.compiler.explain import explain

        return explain(self.graph(), level)

    def __repr__(self) -> str:
        return f"<program {self.name}: datasets {', '.join(self._datasets)}; views {', '.join(self._views)}>"

    def _check_name(self, what: str, name: object) -> None:
        if not isinstance(name, str):
            raise Refused(f"the name of a {what} is a str, got {name!r:.80}")
        checked.check_collection_name(what, name)
        taken = "dataset" if name in self._datasets else "view" if name in self._views else None
        if taken is not None:
            raise Refused(f"program {self.name!r} has a {taken} {name!r} already")

    def _check_own(self, name: str, relation: ops.Relation) -> None:
        for part in in_order([relation]):
            if isinstance(part, ops.Dataset) and self._datasets.get(part.name) is not part:
                raise Refused(
                    f"view {name!r} of program {self.name!r} uses {describe(part)} of another program, declared at"
                    f" {part.location}; a view reads the datasets of its own program"
                )

    def _view_name(self, view: str | Table) -> str:
        name = view._name if isinstance(view, Table) else view
        if not isinstance(name, str) or name not in self._views:
            raise Refused(f"invariant: {name!r:.80} is no view; there are {', '.join(self._views) or 'none'}")
        return name

    def _sampled(self, pair: object) -> tuple[str, StoredRow | Update | Delete]:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise DataError(f"expected a pair (dataset, row), got {type(pair).__name__} {pair!r:.80}")
        dataset, row = pair
        name = dataset._name if isinstance(dataset, Table) else dataset
        if not isinstance(name, str) or name not in self._datasets:
            raise DataError(f"{name!r:.80} is no dataset; there are {', '.join(self._datasets)}")
        if isinstance(row, Update | Delete):
            return name, row
        return name, to_stored_row(self._datasets[name].row_type, row)


def _located(sampler: Sampler, items: Iterable[Any]) -> Iterator[Any]:
    """The items of a sample generator; whatever goes wrong in it is a `ProgramError` at the generator's line."""
    try:
        yield from items
    except UserError:
        raise
    except Exception as error:
        file = inspect.unwrap(sampler).__code__.co_filename if inspect.isfunction(sampler) else ""
        frames = traceback.extract_tb(error.__traceback__)
        mine = [frame for frame in frames if frame.filename == file] or frames
        place = f"{shown_path(mine[-1].filename)}:{mine[-1].lineno}"
        raise ProgramError(f"{place}: in the sample generator: {type(error).__name__}: {error}") from error
