"""What can be measured: names by Prometheus' conventions, tables that agree with the declarations, text that parses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from dist_zero_common import metrics
from dist_zero_common.exposition import exposed
from dist_zero_common.metrics import (
    METRICS,
    SECONDS,
    SERIES_MAX,
    Durations,
    Histogram,
    Kind,
    Metric,
    Readings,
    reference,
)

ROOT = Path(__file__).parents[2]
RESERVED = ("le", "quantile", "job", "instance", "service", "system")
NO_BASE_UNITS = (
    "milliseconds",
    "_ms",
    "_us",
    "microseconds",
    "minutes",
    "hours",
    "kilobytes",
    "megabytes",
    "_mib",
)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_names_are_as_prometheus_wants_them(metric: Metric) -> None:
    """What promtool's linter looks for: base units at the end, `_total` behind counters alone, help in a sentence, no
    type in a name, labels that are not taken."""
    assert metric.name.startswith("dist_zero_")
    assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)
    assert metric.kind is not Kind.HISTOGRAM or metric.unit == "seconds"
    for part in NO_BASE_UNITS:
        assert not metric.name.removesuffix("_total").endswith(part), part
    for part in ("counter", "gauge", "histogram", "summary"):
        assert part not in metric.name.split("_")
    for suffix in ("_count", "_sum", "_bucket"):
        assert not metric.name.endswith(suffix)
    assert metric.help.endswith(".") and "|" not in metric.help and "\n" not in metric.help
    for label in metric.labels:
        assert re.fullmatch("[a-z]+", label) and (label not in RESERVED or metric is metrics.INFO)
    assert len(metric.labels) <= 4 and metric.services


def test_no_metric_is_a_label_of_another() -> None:
    """No two names that a histogram's suffixes would make equal."""
    histograms = [name for name, metric in METRICS.items() if metric.kind is Kind.HISTOGRAM]
    taken = [f"{name}{suffix}" for name in histograms for suffix in ("_bucket", "_sum", "_count")]
    assert not set(taken) & set(METRICS)


def test_the_documentation_has_the_declared_metrics() -> None:
    """The tables of docs/metrics.md are those that `python -m dist_zero_common.metrics` prints, and each metric is in
    one of them."""
    text = reference()
    assert text in (ROOT / "docs/metrics.md").read_text()
    assert sorted(re.findall(r"^\| `(dist_zero_\w+)`", text, re.MULTILINE)) == sorted(METRICS)


def readings() -> Readings:
    """Of each kind something."""
    noted, durations = Readings(), Durations()
    for seconds in (0.0004, 0.001, 0.3, 100.0):
        durations.observe(seconds)
    noted.add(metrics.ROWS_IN, 3, "shop", 'a "quoted" dataset\\')
    noted.add(metrics.ROWS_IN, 4, "shop", "other")
    noted.add(metrics.LEADER, True)
    noted.add_durations(metrics.EPOCH_SECONDS, durations, "shop")
    return noted


@pytest.mark.parametrize(("accept", "parser"), [("", parse), (OPENMETRICS, parse_openmetrics)])
def test_what_is_given_out_is_what_was_read(accept: str, parser: object) -> None:
    """Parsed again, by prometheus-client's own parsers, there are the same numbers, types and words of help; and the
    process's own metrics beside them."""
    text, content_type = exposed(readings(), accept)
    assert content_type.startswith(accept.partition(";")[0] or "text/plain")
    found = {
        family.name: family for family in (parse if parser is parse else parse_openmetrics)(text.decode())
    }
    rows = found["dist_zero_rows_in"]
    assert (rows.type, rows.documentation) == ("counter", metrics.ROWS_IN.help)
    by_dataset = {
        sample.labels["dataset"]: sample.value for sample in rows.samples if sample.name.endswith("_total")
    }
    assert by_dataset == {'a "quoted" dataset\\': 3, "other": 4}
    assert [sample.value for sample in found["dist_zero_leader"].samples] == [1]
    histogram = {
        (sample.name, sample.labels.get("le")): sample.value
        for sample in found["dist_zero_epoch_seconds"].samples
    }
    assert histogram["dist_zero_epoch_seconds_count", None] == 4
    assert histogram["dist_zero_epoch_seconds_sum", None] == pytest.approx(100.3014)
    assert histogram["dist_zero_epoch_seconds_bucket", "0.001"] == 2
    assert histogram["dist_zero_epoch_seconds_bucket", "0.5"] == 3
    assert histogram["dist_zero_epoch_seconds_bucket", "+Inf"] == 4
    assert found["process_resident_memory_bytes"].samples[0].value > 0


def test_durations_are_counted_by_bucket() -> None:
    """A duration that equals a bound is in its bucket; above all there is one more."""
    durations = Durations()
    for seconds in (*SECONDS, 1e6):
        durations.observe(seconds)
    assert durations.counts == [1] * (len(SECONDS) + 1) and durations.count == len(SECONDS) + 1


def test_a_look_is_of_one_moment() -> None:
    """What is counted later changes nothing of it, nor does what is added to a copy."""
    durations, noted = Durations(), Readings()
    durations.observe(1.0)
    noted.add_durations(metrics.EPOCH_SECONDS, durations, "shop")
    noted.add(metrics.LEADER, 1)
    copy = noted.copy()
    durations.observe(1.0)
    copy.add(metrics.LEADER, 1)
    found = noted.of(metrics.EPOCH_SECONDS, "shop")
    assert isinstance(found, Histogram) and sum(found.counts) == 1
    assert (noted.of(metrics.LEADER), copy.of(metrics.LEADER)) == (1, 2)


def test_series_are_bounded() -> None:
    """However many names somebody gives: what is too much is left out, and what is there stays right."""
    noted = Readings()
    for number in range(SERIES_MAX + 5):
        noted.add(metrics.EPOCH, number, f"program-{number}")
    noted.add(metrics.EPOCH, 7, "program-3")
    assert len(noted.series(metrics.EPOCH)) == SERIES_MAX and noted.left_out == 5
    assert noted.of(metrics.EPOCH, "program-3") == 10
    assert noted.of(metrics.EPOCH, f"program-{SERIES_MAX}") is None


def test_labels_are_those_that_are_declared() -> None:
    """One too few or too many is a bug that shows at once."""
    with pytest.raises(AssertionError):
        Readings().add(metrics.EPOCH, 1)
    with pytest.raises(AssertionError):
        Readings().add(metrics.LEADER, 1, "who")
