"""What can be measured: each metric declared once, and the numbers of one look at them.

Names follow Prometheus: `dist_zero_` in front, the unit at the end (`_seconds`, `_bytes`), `_total` behind what only
ever grows. Kernels, sequencers and executors know nothing of metrics: what a service counts anyway, in its state or in
the shell that performs I/O, is read when somebody scrapes, on the service's own loop, into `Readings`; those belong to
nobody else from then on, so another thread may put them into words (`exposition.py`). So a scrape sees one moment of a
service, and where nobody scrapes nothing is read.

**What counters mean.** A counter begins at zero with each process, and where its label names a node, with each
incarnation of that node: `rate()` and `increase()` of Prometheus know how to deal with that. It counts work that was
done, not rows that there are: who goes over the same epochs again after a crash counts them again, and says so
(`dist_zero_rows_replayed_total`). What is there is in gauges.

**Labels** are names that people have given or DistZero has: of programs, datasets, views, nodes, machines. Never keys
or anything else that is in rows. Of one metric a process gives out `SERIES_MAX` series at most.

`python -m dist_zero_common.metrics` prints the tables of docs/metrics.md, which a test compares with the file.
"""

from __future__ import annotations

import enum
import re
import sys
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

SERIES_MAX = 1_000
TARGET_SUFFIX = ".metrics.json"
"""Of the files in which services say where their metrics are."""
_NAME = re.compile(r"dist_zero_[a-z]+(_[a-z]+)*\Z")


class Service(enum.Enum):
    """Who exports a metric; a process may be several of them: an agent and a runner."""

    SCHEDULER = "scheduler"
    AGENT = "machine-agent"
    RUNNER = "node-runner"
    BRIDGE = "bridge"


EVERY = (Service.SCHEDULER, Service.AGENT, Service.RUNNER, Service.BRIDGE)
POSTS = (Service.SCHEDULER, Service.AGENT, Service.RUNNER)
_SCHEDULER, _AGENT, _RUNNER, _BRIDGE = ((each,) for each in EVERY)


class Kind(enum.Enum):
    """As Prometheus has them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""The upper bounds of buckets of durations, in seconds; above the last one there is one more."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as it is exported. `labels`: the names of its labels, in the order in which `Readings.add` takes their
    values. `services`: who exports it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    services: tuple[Service, ...]

    @property
    def unit(self) -> str:
        """What it is measured in, as its name says; the empty text for a mere number."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in ("seconds", "bytes") else ""


METRICS: dict[str, Metric] = {}
"""All there are, by name, in the order of the documentation."""


def _metric(
    kind: Kind, name: str, services: tuple[Service, ...], help_text: str, labels: tuple[str, ...] = ()
) -> Metric:
    full = f"dist_zero_{name}"
    assert _NAME.match(full) and full not in METRICS, full
    assert name.endswith("_total") is (kind is Kind.COUNTER), full
    METRICS[full] = Metric(full, kind, help_text, labels, services)
    return METRICS[full]


def _counter(name: str, services: tuple[Service, ...], help_text: str, *labels: str) -> Metric:
    return _metric(Kind.COUNTER, f"{name}_total", services, help_text, labels)


def _gauge(name: str, services: tuple[Service, ...], help_text: str, *labels: str) -> Metric:
    return _metric(Kind.GAUGE, name, services, help_text, labels)


def _seconds(name: str, services: tuple[Service, ...], help_text: str, *labels: str) -> Metric:
    return _metric(Kind.HISTOGRAM, f"{name}_seconds", services, help_text, labels)


# ---- every service ------------------------------------------------------------------------------------------------

INFO = _gauge(
    "info", EVERY, "1; the labels say which process this is.", "version", "system", "service", "machine"
)
READINGS_AGE = _gauge(
    "readings_age_seconds",
    EVERY,
    "How old these numbers are: 0 unless the service is too busy to be asked, or hangs.",
)
LOG_LINES_DROPPED = _counter(
    "log_lines_dropped", EVERY, "Log lines that could not be written or sent, by where they were to go.", "to"
)
BROKER_CONNECTED = _gauge("broker_connected", POSTS, "1 if there is a connection to the broker.", "post")
BROKER_CONNECTIONS = _counter(
    "broker_connections",
    POSTS,
    "Connections made to the broker; more than one: it was lost and made again.",
    "post",
)
MESSAGES_RECEIVED = _counter("messages_received", POSTS, "Messages that came in and were handled.", "post")
ENVELOPES_SENT = _counter(
    "envelopes_sent", POSTS, "Envelopes given to the broker; each carries messages.", "post"
)
SENT_BYTES = _counter("sent_bytes", POSTS, "Size of the envelopes given to the broker.", "post")
SENT_AGAIN = _counter(
    "envelopes_sent_again",
    POSTS,
    "Envelopes given to the broker again, because the connection was lost.",
    "post",
)
MESSAGES_ASIDE = _counter(
    "messages_aside",
    POSTS,
    "Messages that nobody could understand: refused, and kept where there is a store.",
    "post",
)
MESSAGES_UNSENT = _gauge("messages_unsent", POSTS, "Messages that wait to be given to the broker.", "post")
MESSAGES_UNACKED = _gauge(
    "messages_unacked", POSTS, "Messages that came in and are not settled: work that is under way.", "post"
)
QUEUE_MESSAGES = _gauge(
    "queue_messages",
    POSTS,
    "Messages that wait in an inbox of the service's at the broker.",
    "inbox",
    "program",
)

# ---- scheduler ----------------------------------------------------------------------------------------------------

LEADER = _gauge("leader", _SCHEDULER, "1 if this scheduler leads, 0 if it stands by.")
SCHEDULER_NUMBER = _gauge("scheduler_number", _SCHEDULER, "The number under which this scheduler leads.")
STANDBYS = _gauge("standbys", _SCHEDULER, "Schedulers that would take over.")
MACHINES_WANTED = _gauge("machines_wanted", _SCHEDULER, "Machines that there shall be.")
MACHINES = _gauge("machines", _SCHEDULER, "Machines that have announced themselves.")
MACHINES_READY = _gauge("machines_ready", _SCHEDULER, "Machines on which nodes may be placed.")
MACHINE_SILENT_SECONDS = _gauge(
    "machine_silent_seconds", _SCHEDULER, "How long ago a machine's agent was last heard of.", "machine"
)
PROGRAM_STATE = _gauge(
    "program_state",
    _SCHEDULER,
    "1 for the state that a program is in, else 0: starting, running, halted, asleep.",
    "program",
    "state",
)
PROGRAM_NODES = _gauge("program_nodes", _SCHEDULER, "Nodes that a program is placed on.", "program")
PROGRAM_LAG = _gauge(
    "program_lag_epochs",
    _SCHEDULER,
    "Epochs of the log that not every node has finished, as runners report them.",
    "program",
)
RECOVERIES = _counter(
    "recoveries", _SCHEDULER, "Parts placed again, because they were lost with their runner.", "program"
)
MOVES = _counter("moves", _SCHEDULER, "Parts moved to another runner, none having been lost.", "program")
SPLITS = _counter("splits", _SCHEDULER, "Divisions of a node's interval.", "program")
MERGES = _counter("merges", _SCHEDULER, "Neighbours made one.", "program")
REWINDS = _counter(
    "rewinds", _SCHEDULER, "Times a program went back to a base in a new generation.", "program"
)
COMMANDS = _counter("commands", _SCHEDULER, "Commands sent to agents and runners.")
REPORTS = _counter("reports", _SCHEDULER, "Reports heard: changed, same or stale.", "kind")
REQUESTS_REFUSED = _counter("requests_refused", _SCHEDULER, "Requests of clients that were refused.")

# ---- machine agent ------------------------------------------------------------------------------------------------

MACHINE_CORES = _gauge("machine_cores", _AGENT, "Cores that this machine says it has.")
MACHINE_MEMORY = _gauge("machine_memory_bytes", _AGENT, "Memory that this machine says it has.")
RUNNERS = _gauge("runners", _AGENT, "Node runners that run on this machine.")
RUNNERS_STARTED = _counter("runners_started", _AGENT, "Node runners started.")
RUNNERS_DIED = _counter("runners_died", _AGENT, "Node runners that ended without having been told to.")
COMMANDS_REFUSED = _counter("commands_refused", _AGENT, "Commands of deposed schedulers.")

# ---- node runner: sequencers --------------------------------------------------------------------------------------

EPOCH = _gauge("epoch", _RUNNER, "The newest epoch in a program's log.", "program")
FINISHED_EPOCH = _gauge(
    "finished_epoch", _RUNNER, "The newest epoch that every node has finished.", "program"
)
BASE_EPOCH = _gauge(
    "base_epoch", _RUNNER, "The epoch of the newest base: what a start begins with.", "program"
)
LAG = _gauge("lag_epochs", _RUNNER, "Epochs of the log that not every node has finished.", "program")
BASE_AGE = _gauge(
    "base_age_seconds",
    _RUNNER,
    "Since when there are epochs that no base covers; 0 if there are none.",
    "program",
)
SEQUENCER_HALTED = _gauge("sequencer_halted", _RUNNER, "1 if a program's sequencer stands still.", "program")
EPOCHS = _counter("epochs", _RUNNER, "Epochs recorded in a program's log by its sequencer here.", "program")
TRANSACTIONS = _counter("transactions", _RUNNER, "Transactions committed by the sequencer here.", "program")
TRANSACTION_BYTES = _counter(
    "transaction_bytes", _RUNNER, "Size of the transactions committed by the sequencer here.", "program"
)
ROWS_IN = _counter(
    "rows_in",
    _RUNNER,
    "Rows written to a dataset (puts, updates, deletes, appends) that the sequencer here has recorded and handed out.",
    "program",
    "dataset",
)
ROWS_REPLAYED = _counter(
    "rows_replayed",
    _RUNNER,
    "The same of epochs that were in the log before: handed out again after a start.",
    "program",
    "dataset",
)
GENERATIONS = _counter("generations", _RUNNER, "Generations opened by a sequencer here.", "program")
EPOCH_SECONDS = _seconds(
    "epoch",
    _RUNNER,
    "From the moment a record is about to be created until every node has finished it.",
    "program",
)
COMMIT_SECONDS = _seconds("commit", _RUNNER, "What the store takes to create a record of the log.", "program")
WAITING_BYTES = _gauge(
    "waiting_bytes", _RUNNER, "Size of the transactions that wait for an epoch.", "program"
)

# ---- node runner: nodes -------------------------------------------------------------------------------------------

NODE_FINISHED = _gauge(
    "node_finished_epoch", _RUNNER, "The newest epoch a node has finished.", "program", "node"
)
NODE_LAG = _gauge(
    "node_lag_epochs",
    _RUNNER,
    "Epochs that were handed to a node and that it has not finished.",
    "program",
    "node",
)
LINK_LAG = _gauge(
    "link_lag_epochs",
    _RUNNER,
    "Epochs for which a node waits for rows of another one; only links that are behind, the worst of each node.",
    "program",
    "node",
    "sender",
)
NODE_HALTED = _gauge("node_halted", _RUNNER, "1 if a node stands still.", "program", "node")
NODE_ROWS = _counter("node_rows", _RUNNER, "Rows that the steps of a node have taken in.", "program", "node")
NODE_BUSY = _counter("node_busy_seconds", _RUNNER, "For how long a node was at work.", "program", "node")
NODE_READS = _counter(
    "node_reads", _RUNNER, "How often a node was asked for rows or changes.", "program", "node"
)
NODE_MEMORY = _gauge(
    "node_memory_bytes", _RUNNER, "Memory that a node's native executor has taken.", "program", "node"
)
NODE_STATE = _gauge("node_state_bytes", _RUNNER, "How much a node's newest saves hold.", "program", "node")
CHECKPOINT_AGE = _gauge(
    "checkpoint_age_seconds",
    _RUNNER,
    "Since when a node has finished something that no save covers; 0 if all is saved.",
    "program",
    "node",
)
CHECKPOINT_SECONDS = _seconds("checkpoint", _RUNNER, "What a save takes, with the store.", "program")
CHECKPOINT_BYTES = _counter("checkpoint_bytes", _RUNNER, "Size of what nodes have saved.", "program")
ROWS_OUT = _counter(
    "rows_out", _RUNNER, "Rows that nodes here have put into a view or taken out of it.", "program", "view"
)
NODES_BEGUN = _counter(
    "nodes_begun", _RUNNER, "Nodes that have begun here, by how: loaded, prepared, kept.", "program", "how"
)
NODES_BEGUN_AGAIN = _counter(
    "nodes_begun_again", _RUNNER, "Nodes that had fallen behind and began again at a base.", "program"
)
ROWS_ASKED_AGAIN = _counter(
    "rows_asked_again", _RUNNER, "Times nodes here had to ask again for what did not come.", "program"
)

# ---- bridge -------------------------------------------------------------------------------------------------------

BRIDGE_APPLIED = _counter(
    "bridge_messages_applied", _BRIDGE, "Messages of a queue that were applied.", "queue"
)
BRIDGE_ROWS = _counter("bridge_rows", _BRIDGE, "Rows that these messages stood for.", "queue")
BRIDGE_REPEATED = _counter(
    "bridge_messages_repeated", _BRIDGE, "Copies of messages that were applied.", "queue"
)
BRIDGE_EMPTY = _counter("bridge_messages_empty", _BRIDGE, "Messages that stood for no rows.", "queue")
BRIDGE_ASIDE = _counter(
    "bridge_messages_aside",
    _BRIDGE,
    "Messages that could not be applied, kept in the queue's .set-aside.",
    "queue",
)
BRIDGE_SESSIONS = _counter("bridge_sessions", _BRIDGE, "Sessions that a bridge has opened.", "queue")


# ---- numbers ------------------------------------------------------------------------------------------------------


class Durations:
    """Durations, counted by bucket: what a histogram is read from."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        """By bucket of `SECONDS`, the last one for all above."""
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations as they were at one moment."""

    counts: tuple[int, ...]
    sum: float


class Readings:
    """The numbers of one look, by metric and values of labels."""

    def __init__(self) -> None:
        self._series: dict[str, dict[tuple[str, ...], float | Histogram]] = {}
        self.left_out = 0
        """How many series were too many."""

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Note a number. Of one series that is given twice, the sum counts."""
        assert metric.kind is not Kind.HISTOGRAM, metric.name
        before = self._of(metric, labels)
        assert not isinstance(before, Histogram)
        if before is not None:
            self._series[metric.name][labels] = before + value

    def add_durations(self, metric: Metric, durations: Durations, *labels: str) -> None:
        """Note what was counted by now. A series is given once."""
        assert metric.kind is Kind.HISTOGRAM, metric.name
        if self._of(metric, labels) is not None:
            self._series[metric.name][labels] = Histogram(tuple(durations.counts), durations.sum)

    def _of(self, metric: Metric, labels: tuple[str, ...]) -> float | Histogram | None:
        """The number of a series so far, None if there is no room for it."""
        assert METRICS.get(metric.name) is metric and len(labels) == len(metric.labels), (metric.name, labels)
        series = self._series.setdefault(metric.name, {})
        if labels not in series and len(series) >= SERIES_MAX:
            self.left_out += 1
            return None
        return series.setdefault(labels, 0.0)

    def copy(self) -> Readings:
        """The same numbers, for somebody who adds to them."""
        copied = Readings()
        copied._series = {name: dict(series) for name, series in self._series.items()}
        return copied

    def of(self, metric: Metric, *labels: str) -> float | Histogram | None:
        """The number of one series, None if there is none."""
        return self._series.get(metric.name, {}).get(labels)

    def total(self, metric: Metric) -> float:
        """The sum of all series of a metric that is no histogram."""
        return sum(value for _, value in self.series(metric) if not isinstance(value, Histogram))

    def series(self, metric: Metric) -> list[tuple[tuple[str, ...], float | Histogram]]:
        """All series of a metric: values of labels, and the number."""
        return list(self._series.get(metric.name, {}).items())

    def metrics(self) -> Iterator[Metric]:
        """The metrics that there are numbers of, in the order of their declaration."""
        return (metric for name, metric in METRICS.items() if self._series.get(name))


# ---- documentation ------------------------------------------------------------------------------------------------

_SECTIONS = (
    ("Every service", EVERY),
    ("Every service with an inbox", POSTS),
    ("Scheduler", _SCHEDULER),
    ("Machine agent", _AGENT),
    ("Node runner", _RUNNER),
    ("Bridge", _BRIDGE),
)


def reference() -> str:
    """The tables of docs/metrics.md: all metrics, by who exports them."""
    parts = []
    for title, services in _SECTIONS:
        parts.append(f"### {title}\n\n| metric | kind | labels | |\n|---|---|---|---|\n")
        for metric in METRICS.values():
            if metric.services == services:
                labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
                parts.append(f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.help} |\n")
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
