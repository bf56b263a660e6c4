"""What services logged while a program was tested, counted: which ways of recovering were gone (I7), how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Event = dict[str, object]

RECOVERIES = {
    "messages lost": "lose",
    "messages doubled": "duplicate",
    "runners found dead": "runner_died",
    "machines gone": "machine_ended",
    "silences noticed": "silent",
    "schedulers started": "scheduler_started",
    "programs placed": "program_placed",
    "programs found running": "program_adopted",
    "sequencers started": "sequencer_started",
    "sequencers replaced": "sequencer_replaced",
    "sequencers deposed": "sequencer_deposed",
    "generations opened": "generation_opened",
    "shard maps changed": "map_changed",
    "bases written": "base_written",
    "nodes begun with saved state": "node_begun_with_state",
    "nodes that kept their state": "node_kept",
    "nodes loaded beforehand": "node_prepared_before",
    "nodes begun again": "node_begins_again",
    "rows asked for again": "rows_asked_again",
    "objects collected": "object_collected",
    "clients followed their program": "program_moved",
    "connections lost by services": "broker_lost",
    "connections lost by clients": "connection_lost",
    "inboxes found gone": "inbox_gone",
    "store failures outlived": "store_failed",
}
"""Ways of recovering, by the events that services log of them, or by what `event_counts` makes of these."""


_BEGUN = {"kept": "node_kept", "prepared": "node_prepared_before", "loaded": "node_loaded"}


def event_counts(events: Sequence[Event]) -> Counter[str]:
    """How often each event came; and what the fields of some of them add up to."""
    counts = Counter(str(event["event"]) for event in events)
    maps: dict[object, None] = {}
    for event in events:
        match event["event"]:
            case "node_begun":
                counts["node_begun_with_state"] += bool(event["entries"])
                counts[_BEGUN[str(event["how"])]] += 1
            case "collected":
                counts["object_collected"] += int(str(event["objects"]))
            case "generation_opened":
                maps[event["map_version"]] = None
            case _:
                pass
    counts["map_changed"] = max(0, len(maps) - 1)
    return counts
