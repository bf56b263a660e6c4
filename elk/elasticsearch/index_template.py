"""Prints `index-template.json`: `python -m elk.elasticsearch.index_template > elk/elasticsearch/index-template.json`.

The mapping is explicit: the fields that docs/log-events.md lists, with the types that it says, and no others. What else
a line may hold is stored and can be read, but not searched (`dynamic: false`), so that nothing that is logged makes the
index grow fields. A value of another type than its field's is not searched either, and loses no line
(`ignore_malformed`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs/log-events.md"
DATA_STREAMS = "logs-dist_zero-*"
LIFECYCLE = "dist-zero-logs"
PRIORITY = 250
"""Above that of Elasticsearch's own template for logs-*-*."""
KEYWORD_LENGTH_MAX = 1_100
"""A text is cut at 1,000 characters when it is logged (and says how long it was)."""
TYPES: Mapping[str, Mapping[str, object]] = {
    "keyword": {"type": "keyword", "ignore_above": KEYWORD_LENGTH_MAX},
    "text": {"type": "text"},
    "long": {"type": "long"},
    "double": {"type": "double"},
    "boolean": {"type": "boolean"},
    "date": {"type": "date"},
    "date_nanos": {"type": "date_nanos"},
}


def documented_fields() -> dict[str, str]:
    """Name and type of each field, of events and of lines."""
    fields = {}
    for heading in ("Fields", "Fields of shipped lines"):
        part = DOCUMENT.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
        for line in part.splitlines():
            if line.startswith("| `"):
                name, type_, *_ = (cell.strip() for cell in line.strip("|").split("|"))
                fields[name.strip("`")] = type_
    return fields


def index_template() -> dict[str, object]:
    """The template, as Elasticsearch takes it."""
    properties: dict[str, object] = {}
    for name, type_ in sorted(documented_fields().items()):
        outer, _, inner = name.partition(".")
        properties[outer] = {"properties": {inner: TYPES[type_]}} if inner else TYPES[type_]
    properties["@timestamp"] = {**TYPES["date"], "ignore_malformed": False}  # as a data stream wants it
    properties["data_stream"] = {
        "properties": {part: {"type": "constant_keyword"} for part in ("type", "dataset", "namespace")}
    }
    return {
        "index_patterns": [DATA_STREAMS],
        "data_stream": {},
        "priority": PRIORITY,
        "template": {
            "settings": {
                "index.lifecycle.name": LIFECYCLE,
                "index.number_of_shards": 1,
                "index.number_of_replicas": 0,
                "index.mapping.ignore_malformed": True,
                "index.mapping.total_fields.limit": 200,
            },
            "mappings": {"dynamic": False, "date_detection": False, "properties": properties},
        },
        "_meta": {"description": "Logs of DistZero: docs/log-events.md"},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(index_template(), indent=2) + "\n")
