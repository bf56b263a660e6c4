"""Random input for a program, from its row types alone: small domains, so that keys collide and joins match,
with nulls and extreme values among them. For `dist-zero test`."""

from __future__ import annotations

import random
from collections.abc import Iterator

from dist_zero.client.writes import Transaction
from dist_zero.compiler.plan import DatasetPlan, Plan
from dist_zero.types import INT_MAX, INT_MIN, NAN, DataType, Kind, Stored, from_stored
from dist_zero.types import Row as StoredRow

_HOUR_US = 3_600_000_000
_START_US = 1_700_000_000_000_000 // _HOUR_US * _HOUR_US
_WORDS = ("", "a", "b", "ant", "bee", "Zürich", "東京", "a b")
_FLOATS = (0.0, 1.0, -1.0, 0.1, 0.5, 2.5, 1e300, -1e-9, NAN, float("inf"))


class Generator:
    """Draws transactions, and remembers the keys that were written, to change and delete some of them."""

    def __init__(self, plan: Plan, rng: random.Random) -> None:
        self._plan, self._rng = plan, rng
        self._keys: dict[int, list[StoredRow]] = {number: [] for number in range(len(plan.datasets))}

    def notice(self, dataset: str, row: StoredRow) -> None:
        """Another source has written this row."""
        number = next(i for i, each in enumerate(self._plan.datasets) if each.name == dataset)
        self._remember(number, row)

    def transactions(self, count: int) -> Iterator[Transaction]:
        """So many transactions of one to eight writes to any datasets."""
        for _ in range(count):
            transaction = Transaction(self._plan)
            for _ in range(self._rng.randrange(1, 9)):
                self._write(transaction, self._rng.randrange(len(self._plan.datasets)))
            yield transaction

    def changes(self, count: int) -> Iterator[Transaction]:
        """So many transactions that change or delete rows that are there; fewer if there are none."""
        keyed = [number for number, keys in self._keys.items() if keys]
        for _ in range(count if keyed else 0):
            transaction = Transaction(self._plan)
            for _ in range(self._rng.randrange(1, 5)):
                number = self._rng.choice(keyed)
                self._change(transaction, number, self._rng.choice(self._keys[number]))
            yield transaction

    def _write(self, transaction: Transaction, number: int) -> None:
        known = self._keys[number]
        if known and self._rng.random() < 0.3:
            self._change(transaction, number, self._rng.choice(known))
            return
        dataset = self._plan.datasets[number]
        row = tuple([self._value(dtype) for dtype in dataset.row_type.types])
        self._remember(number, row)
        transaction.write_stored(dataset.name, [row])

    def _change(self, transaction: Transaction, number: int, key: StoredRow) -> None:
        dataset = self._plan.datasets[number]
        assert dataset.key is not None
        user_key = tuple(
            from_stored(dataset.row_type.types[place], value)
            for place, value in zip(dataset.key, key, strict=True)
        )
        others = [place for place in range(len(dataset.row_type)) if place not in dataset.key]
        if not others or self._rng.random() < 0.4:
            transaction.delete(dataset.name, user_key)
            return
        changed = self._rng.sample(others, self._rng.randrange(1, len(others) + 1))
        transaction.update(dataset.name, user_key, **self._user_values(dataset, changed))

    def _user_values(self, dataset: DatasetPlan, places: list[int]) -> dict[str, object]:
        types = dataset.row_type.types
        return {
            dataset.row_type.names[place]: from_stored(types[place], self._value(types[place]))
            for place in sorted(places)
        }

    def _remember(self, number: int, row: StoredRow) -> None:
        key = self._plan.datasets[number].key
        if key is not None:
            self._keys[number].append(tuple(row[place] for place in key))

    def _value(self, dtype: DataType) -> Stored:
        rng = self._rng
        if dtype.nullable and rng.random() < 0.2:
            return None
        match dtype.kind:
            case Kind.BOOL:
                return rng.random() < 0.5
            case Kind.FLOAT:
                return rng.choice(_FLOATS)
            case Kind.STR:
                return rng.choice(_WORDS)
            case Kind.BYTES:
                return rng.choice((b"", b"\0", b"ab", b"\xff"))
            case Kind.DATETIME:
                return _START_US + rng.randrange(48) * (_HOUR_US // 4)
            case Kind.ENUM:
                return rng.randrange(len(dtype.members))
            case Kind.INT | Kind.DECIMAL:
                return rng.choice((INT_MAX, INT_MIN)) if rng.random() < 0.02 else rng.randrange(-2, 8)
