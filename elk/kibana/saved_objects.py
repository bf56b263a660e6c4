"""Prints `saved-objects.ndjson`: `python -m elk.kibana.saved_objects > elk/kibana/saved-objects.ndjson`.

A data view, a live tail (a search of Discover), and a dashboard with its panels, in the form that Kibana 8.9 exports;
newer ones migrate it when they import it. Ids are names, so that addresses can be written down:
`/app/discover#/view/dist-zero-tail`, `/app/dashboards#/view/dist-zero`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DATA_VIEW, TAIL, DASHBOARD = "dist-zero-logs", "dist-zero-tail", "dist-zero"
INDEX = "logs-dist_zero-*"
TIME = "@timestamp"
TAIL_COLUMNS = ("system", "machine", "service", "node", "epoch", "level", "event", "message")
REFRESH_MS = 5_000
LAYER = "layer"
RECORDS = "___records___"
"""What Lens calls the documents themselves, to be counted."""
CORE_VERSION = "8.8.0"
"""Of the form of saved objects; that of a type is with it."""

RECOVERIES = (
    "broker_lost",
    "generation_opened",
    "machine_ended",
    "node_begins_again",
    "program_adopted",
    "runner_died",
    "scheduler_deposed",
    "sequencer_deposed",
    "sequencer_loads_again",
    "silent",
)
"""Events that say that something went wrong and was gone on from."""

SavedObject = dict[str, object]
Column = dict[str, object]


@dataclass(frozen=True)
class Panel:
    """A panel of the dashboard: where it is (of 48 columns), and what Lens draws."""

    id: str
    title: str
    place: tuple[int, int, int, int]
    """Left, top, width, height."""
    query: str
    columns: Mapping[str, Column]
    kind: str = "bar_stacked"


def over_time() -> Column:
    """Time, in slices that suit the range that is looked at."""
    return {
        "label": TIME,
        "dataType": "date",
        "operationType": "date_histogram",
        "sourceField": TIME,
        "isBucketed": True,
        "scale": "interval",
        "params": {"interval": "auto", "includeEmptyRows": True, "dropPartials": False},
    }


def by(field: str, label: str, size: int = 10) -> Column:
    """The most frequent values of a field."""
    return {
        "label": label,
        "customLabel": True,
        "dataType": "string",
        "operationType": "terms",
        "sourceField": field,
        "isBucketed": True,
        "scale": "ordinal",
        "params": {
            "size": size,
            "orderBy": {"type": "column", "columnId": "value"},
            "orderDirection": "desc",
            "otherBucket": True,
            "missingBucket": True,
            "parentFormat": {"id": "terms"},
        },
    }


def count(label: str) -> Column:
    """How many events."""
    return {
        "label": label,
        "customLabel": True,
        "dataType": "number",
        "operationType": "count",
        "sourceField": RECORDS,
        "isBucketed": False,
        "scale": "ratio",
        "params": {"emptyAsNull": False},
    }


def number(operation: str, field: str, label: str) -> Column:
    """The sum or the maximum of a field."""
    return {
        "label": label,
        "customLabel": True,
        "dataType": "number",
        "operationType": operation,
        "sourceField": field,
        "isBucketed": False,
        "scale": "ratio",
        "params": {"emptyAsNull": operation == "max"},
    }


PANELS = (
    Panel(
        "dist-zero-errors",
        "Errors and warnings by machine",
        (0, 0, 24, 12),
        "level: error or level: warning",
        {"split": by("machine", "Machine"), "time": over_time(), "value": count("Events")},
    ),
    Panel(
        "dist-zero-recoveries",
        "Recoveries",
        (24, 0, 24, 12),
        "event: ({})".format(" or ".join(RECOVERIES)),
        {"split": by("event", "What"), "time": over_time(), "value": count("Events")},
    ),
    Panel(
        "dist-zero-epochs",
        "Newest epoch that all nodes have saved",
        (0, 12, 16, 12),
        "event: base_written",
        {"split": by("program", "Program"), "time": over_time(), "value": number("max", "epoch", "Epoch")},
        kind="line",
    ),
    Panel(
        "dist-zero-epochs-recorded",
        "Epochs",
        (16, 12, 16, 12),
        "event: base_written",
        {"split": by("program", "Program"), "time": over_time(), "value": number("sum", "epochs", "Epochs")},
    ),
    Panel(
        "dist-zero-throughput",
        "Throughput: transactions",
        (32, 12, 16, 12),
        "event: base_written",
        {
            "split": by("program", "Program"),
            "time": over_time(),
            "value": number("sum", "transactions", "Transactions"),
        },
    ),
)
TAIL_PLACE = (0, 24, 48, 18)


def _reference(kind: str, id_: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": id_, "name": name}


def _object(
    kind: str,
    id_: str,
    version: str,
    attributes: Mapping[str, object],
    references: Sequence[Mapping[str, str]] = (),
) -> SavedObject:
    return {
        "type": kind,
        "id": id_,
        "attributes": dict(attributes),
        "references": list(references),
        "coreMigrationVersion": CORE_VERSION,
        "typeMigrationVersion": version,
        "managed": False,
    }


def data_view() -> SavedObject:
    """What is looked at: all logs, in their real time."""
    attributes = {
        "title": INDEX,
        "name": "DistZero logs",
        "timeFieldName": TIME,
        "fields": "[]",
        "typeMeta": "{}",
    }
    return _object("index-pattern", DATA_VIEW, "8.0.0", attributes)


def tail() -> SavedObject:
    """The live tail: newest first, across all machines, looked at again every few seconds."""
    name = "kibanaSavedObjectMeta.searchSourceJSON.index"
    source = {"query": {"query": "", "language": "kuery"}, "filter": [], "indexRefName": name}
    attributes = {
        "title": "DistZero: live tail",
        "description": "All events of all processes, newest first",
        "columns": list(TAIL_COLUMNS),
        "sort": [[TIME, "desc"], ["time", "desc"]],
        "grid": {},
        "hideChart": False,
        "isTextBasedQuery": False,
        "timeRestore": True,
        "timeRange": {"from": "now-15m", "to": "now"},
        "refreshInterval": {"pause": False, "value": REFRESH_MS},
        "kibanaSavedObjectMeta": {"searchSourceJSON": json.dumps(source)},
    }
    return _object("search", TAIL, "8.0.0", attributes, [_reference("index-pattern", DATA_VIEW, name)])


def lens(panel: Panel) -> SavedObject:
    """A panel's drawing: time to the right, the value upwards, a colour for each of what it is split by."""
    layer = {"columns": dict(panel.columns), "columnOrder": list(panel.columns), "incompleteColumns": {}}
    drawn = {
        "layerId": LAYER,
        "layerType": "data",
        "seriesType": panel.kind,
        "xAccessor": "time",
        "splitAccessor": "split",
        "accessors": ["value"],
    }
    attributes = {
        "title": f"DistZero: {panel.title}",
        "visualizationType": "lnsXY",
        "state": {
            "query": {"query": panel.query, "language": "kuery"},
            "filters": [],
            "datasourceStates": {"formBased": {"layers": {LAYER: layer}}},
            "visualization": {
                "layers": [drawn],
                "preferredSeriesType": panel.kind,
                "legend": {"isVisible": True, "position": "right"},
                "valueLabels": "hide",
                "fittingFunction": "None",
            },
            "internalReferences": [],
            "adHocDataViews": {},
        },
    }
    reference = _reference("index-pattern", DATA_VIEW, f"indexpattern-datasource-layer-{LAYER}")
    return _object("lens", panel.id, "8.9.0", attributes, [reference])


def dashboard() -> SavedObject:
    """The panels, with the tail below them."""
    shown = [("lens", panel.id, panel.title, panel.place) for panel in PANELS]
    shown.append(("search", TAIL, "Live tail", TAIL_PLACE))
    panels, references = [], []
    for index, (kind, id_, title, (left, top, width, height)) in enumerate(shown, 1):
        panels.append(
            {
                "type": kind,
                "title": title,
                "panelIndex": str(index),
                "panelRefName": f"panel_{index}",
                "gridData": {"x": left, "y": top, "w": width, "h": height, "i": str(index)},
                "embeddableConfig": {"enhancements": {}},
            }
        )
        references.append(_reference(kind, id_, f"{index}:panel_{index}"))
    attributes = {
        "title": "DistZero",
        "description": "Errors by machine, recoveries, epochs and throughput, from log events",
        "panelsJSON": json.dumps(panels),
        "optionsJSON": json.dumps({"useMargins": True, "hidePanelTitles": False}),
        "timeRestore": True,
        "timeFrom": "now-1h",
        "timeTo": "now",
        "refreshInterval": {"pause": False, "value": REFRESH_MS},
        "kibanaSavedObjectMeta": {
            "searchSourceJSON": json.dumps({"query": {"query": "", "language": "kuery"}, "filter": []})
        },
        "version": 1,
    }
    return _object("dashboard", DASHBOARD, "8.7.0", attributes, references)


def saved_objects() -> list[SavedObject]:
    """All, each behind those that it refers to."""
    return [data_view(), tail(), *(lens(panel) for panel in PANELS), dashboard()]


def ndjson() -> str:
    """One object in a line, as Kibana's import takes them."""
    return "".join(json.dumps(each, sort_keys=True) + "\n" for each in saved_objects())


if __name__ == "__main__":
    sys.stdout.write(ndjson())
