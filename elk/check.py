"""Whether a stack that runs does what it is for: ships one line as services do, asks Elasticsearch for it, and Kibana
whether the data view, the live tail and the dashboard are there and see it.

Prints a line for each that is right; the first that is not ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable

from dist_zero_common.clock import RealClock
from dist_zero_common.log import get_logger
from dist_zero_common.log_shipping import shipping
from elk.kibana.saved_objects import DASHBOARD, DATA_VIEW, INDEX, TAIL, saved_objects

ANSWER_SECONDS = 10.0
LOOK_SECONDS = 1.0


class Wrong(Exception):
    """Something is not as it should be; the text says what."""


def answer(url: str, body: object = None) -> str:
    """What a server answers to a GET, or to a POST of this JSON. Raises `Wrong`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", "kbn-xsrf": "dist-zero"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        raise Wrong(f"{url} answers {error.code}: {error.read(300).decode(errors='replace')}") from None
    except OSError as error:
        raise Wrong(f"{url} does not answer: {error}") from None


def wait(seconds: float, look: Callable[[], str]) -> None:
    """Until `look` has nothing to complain of. Raises `Wrong` with its complaint after so long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            complaint = look()
        except Wrong as wrong:
            complaint = str(wrong)
        if not complaint:
            return
        if time.monotonic() > deadline:
            raise Wrong(f"{complaint} (after {seconds:.0f} s)")
        time.sleep(LOOK_SECONDS)


def ship(host: str, port: int, mark: str) -> None:
    """One event whose machine is called `mark`."""
    with shipping((host, port), level="info"):
        log = get_logger("elk-check", RealClock(), system="elk-check", machine=mark, node="n-1")
        log.info("elk_checked", epoch=7)


def found(elasticsearch: str, mark: str) -> str:
    """Whether Elasticsearch finds the line, by fields of the index."""
    query = {
        "query": {
            "bool": {
                "filter": [
                    {"term": {"machine": mark}},
                    {"term": {"event": "elk_checked"}},
                    {"range": {"epoch": {"gte": 7, "lte": 7}}},
                    {"range": {"@timestamp": {"gte": "now-1h"}}},
                ]
            }
        }
    }
    where = f"{elasticsearch}/{urllib.parse.quote(INDEX, safe='*')}/_search"
    hits = json.loads(answer(where, query))["hits"]["hits"]
    if len(hits) != 1:
        return f"Elasticsearch finds the line {len(hits)} times"
    said = hits[0]["_source"]
    wanted = {"system": "elk-check", "service": "elk-check", "node": "n-1", "level": "info", "epoch": 7}
    different = {name: said.get(name) for name in wanted if said.get(name) != wanted[name]}
    return f"the line has come as something else: {different}" if different else ""


def loaded(kibana: str) -> str:
    """Whether Kibana has all saved objects, and none of them refers to one that is missing."""
    wanted = {(str(each["type"]), str(each["id"])) for each in saved_objects()}
    objects = [{"type": kind, "id": id_} for kind, id_ in sorted(wanted)]
    lines = answer(f"{kibana}/api/saved_objects/_export", {"objects": objects}).splitlines()
    there = {(each.get("type"), each.get("id")) for each in map(json.loads, lines)}
    missing = sorted(f"{kind} {id_}" for kind, id_ in wanted - there)
    return f"Kibana has not: {', '.join(missing)}" if missing else ""


def sees(kibana: str) -> str:
    """Whether the fields of the tail exist in Kibana's data view, which then has seen the index."""
    view = json.loads(answer(f"{kibana}/api/data_views/data_view/{DATA_VIEW}"))["data_view"]
    fields = view.get("fields", {})
    missing = [name for name in ("@timestamp", "machine", "node", "epoch", "event") if name not in fields]
    return f"the data view lacks {', '.join(missing)}" if missing else ""


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser("elk/check", description="Ships a line, and asks for it.")
    parser.add_argument("--logstash", default="127.0.0.1:5533", metavar="HOST:PORT", help="%(default)s")
    parser.add_argument("--elasticsearch", default="http://127.0.0.1:9200", metavar="URL", help="%(default)s")
    parser.add_argument("--kibana", default="http://127.0.0.1:5601", metavar="URL", help="%(default)s")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long to wait for each (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    host, _, port = given.logstash.rpartition(":")
    mark = f"check-{uuid.uuid4().hex[:12]}"
    try:
        ship(host, int(port), mark)
        wait(given.seconds, lambda: found(given.elasticsearch, mark))
        print(f"Elasticsearch has the line that was shipped to {given.logstash}")
        wait(given.seconds, lambda: loaded(given.kibana))
        print("Kibana has the data view, the live tail and the dashboard")
        wait(given.seconds, lambda: sees(given.kibana))
        print(f"the live tail: {given.kibana}/app/discover#/view/{TAIL}")
        print(f"the dashboard: {given.kibana}/app/dashboards#/view/{DASHBOARD}")
    except Wrong as wrong:
        print(f"elk/check: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
