"""The accumulators of aggregates, as C: words of a group, which `runtime/sums.h` and `reduce.h` work on."""

from __future__ import annotations

from dataclasses import dataclass

from dist_zero.expr.ops import Aggregation
from dist_zero.native.layout import KIND_NAMES, Layout, is_text
from dist_zero.state import is_extreme
from dist_zero.types import INT, DataType, Kind

FAILURES = ("integer overflow", "decimal overflow")
"""Why a group may have no row; numbers from 1 on."""


@dataclass(frozen=True, slots=True)
class Accumulator:
    """One aggregation of a group. `plain`: it is the number of rows. `fed`: the place among what rows are fed to it;
    `column`: its name in the program."""

    number: int
    aggregation: Aggregation
    plain: bool
    fed: int
    column: str

    @property
    def name(self) -> str:
        """The member of the group."""
        return f"{self.kind}{self.number}_{self.column}"

    @property
    def kind(self) -> str:
        """What it is."""
        function = self.aggregation.function
        return {"count": "count", "min": "min", "max": "max"}.get(
            function, "float_sum" if self.is_float else "int_sum"
        )

    @property
    def dtype(self) -> DataType:
        """The type of its argument."""
        return self.aggregation.argument.dtype.required() if self.aggregation.argument is not None else INT

    @property
    def is_float(self) -> bool:
        """Whether it is a sum of floats."""
        return self.dtype.kind is Kind.FLOAT

    @property
    def extreme(self) -> bool:
        """Whether it keeps values."""
        return is_extreme(self.aggregation)

    @property
    def compare(self) -> str:
        """How its values compare."""
        if is_text(self.dtype):
            return "dz_compare_text_values"
        return "dz_compare_floats" if self.is_float else "dz_compare_ints"

    @property
    def member(self) -> str:
        """The declaration in the group."""
        if self.extreme:
            return f"dz_ordered {self.name};"
        size = {"count": "DZ_COUNT_WORDS", "int_sum": "DZ_INT_SUM_WORDS", "float_sum": "DZ_FLOAT_SUM_WORDS"}
        return f"uint64_t {self.name}[{size[self.kind]}];"

    def add(self, value: str) -> str:
        """The statement that takes in a value."""
        if self.extreme:
            text = "true" if is_text(self.dtype) else "false"
            return f"dz_values_add(base, &group->{self.name}, {self.compare}, {text}, {value}, weight);"
        if self.kind == "count":
            return f"dz_count_add(base, group->{self.name}, weight);"
        cast = "(int64_t)" if self.kind == "int_sum" else ""
        return f"dz_{self.kind}_add(base, group->{self.name}, {cast}{value}, weight);"

    def encoded(self) -> str:
        """The text of its encoding."""
        if self.plain:
            return "dz_text_of_bytes(base, (const char *)&group->rows, 8)"
        if self.extreme:
            largest = "true" if self.aggregation.function == "max" else "false"
            return f"dz_encode_extreme(base, &group->{self.name}, {largest}, {KIND_NAMES[self.dtype.kind]})"
        return f"dz_text_of_bytes(base, bytes, dz_{self.kind}_encode(group->{self.name}, bytes))"

    def is_nothing(self) -> str:
        """Whether it is that of nothing."""
        if self.plain:
            return "group->rows == 0"
        if self.extreme:
            return f"group->{self.name}.count == 0"
        if self.kind == "count":
            return f"group->{self.name}[0] == 0"
        return f"dz_{self.kind}_is_nothing(group->{self.name})"

    def merge(self, data: str) -> list[str]:
        """Statements that take in an encoded one, a text."""
        if self.extreme:
            decoded = (
                f"dz_decode_extreme(base, {data}, {KIND_NAMES[self.dtype.kind]}, {len(self.dtype.members)})"
            )
            return [f"if ({data}->length) {self.add(decoded)}"]
        merge = f"dz_{self.kind}_merge(base, group->{self.name}, {data}->bytes, {data}->length, weight);"
        return [merge]

    def result(self, results: Layout) -> list[str]:
        """Statements that write its result into `result`, whose words are `words`, or return why there is none."""
        out = f"&words[{results.word(self.number)}]"
        if self.kind == "count":
            return [f"*({out}) = (uint64_t)group->{'rows' if self.plain else self.name + '[0]'};"]
        if self.extreme:
            largest = "true" if self.aggregation.function == "max" else "false"
            return self._or_null(results, f"!dz_values_extreme(&group->{self.name}, {largest}, {out})")
        if self.aggregation.function == "sum" and self.kind == "int_sum":
            lines = [
                f"found = dz_int_sum_result(group->{self.name}, {out});",
                f"if (DZ_UNLIKELY(found == DZ_SUM_OVERFLOW)) return {self.failure};",
            ]
            return [
                *lines,
                *(self._or_null(results, "found == DZ_SUM_NULL") if self._nullable(results) else []),
            ]
        if self.aggregation.function == "mean" and self.kind == "int_sum":
            return self._or_null(
                results, f"dz_int_mean_result(group->{self.name}, 1e{self.dtype.scale}, {out}) == DZ_SUM_NULL"
            )
        call = f"dz_float_{self.aggregation.function}_result(group->{self.name}, {out})"
        return self._or_null(results, f"{call} == DZ_SUM_NULL")

    @property
    def failure(self) -> int:
        """Why its result may not be there; 0: it always is."""
        if self.aggregation.function != "sum" or self.kind != "int_sum":
            return 0
        return 2 if self.dtype.kind is Kind.DECIMAL else 1

    def _nullable(self, results: Layout) -> bool:
        return results.types[self.number].nullable

    def _or_null(self, results: Layout, is_null: str) -> list[str]:
        """Statements that make the result null where it is; they compute it in any case."""
        if not self._nullable(results):
            return [f"(void)({is_null});"]
        null = f"{results.null_word('result', self.number // 64)} |= (uint64_t)1 << {self.number % 64};"
        return [f"if ({is_null}) {null}"]

    def free(self) -> str:
        """The statement that frees it; nothing if there is nothing to free."""
        if self.extreme:
            return f"dz_values_free(base, &group->{self.name}, {'true' if is_text(self.dtype) else 'false'});"
        return f"dz_float_sum_free(base, group->{self.name});" if self.kind == "float_sum" else ""
