"""elk/: what Elasticsearch, Logstash and Kibana are given fits together, and fits what services really log.

The stack itself is not run here: where a registry is, elk/check asks it (.github/workflows/elk.yml)."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from logstash_pipeline_parser import Pipeline

from elk.check import main as check
from elk.elasticsearch.index_template import DATA_STREAMS, LIFECYCLE, index_template
from elk.kibana.saved_objects import INDEX, PANELS, RECOVERIES, ndjson
from test.unit.log_calls import log_calls, table
from test.unit.logstash_receiver import Receiver
from test.unit.tidy import ROOT, text

PIPELINE = Path("elk/logstash/dist-zero.conf")


def documented() -> dict[str, str]:
    """The type of each field, of events and of lines."""
    return {
        name: cells[0]
        for part in ("Fields", "Fields of shipped lines")
        for name, cells in table(part).items()
    }


def mapped() -> dict[str, str]:
    """The type of each field of the index template."""
    found = json.loads(text(Path("elk/elasticsearch/index-template.json")))
    return dict(_flat(found["template"]["mappings"]["properties"]))


def _flat(properties: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, field in properties.items():
        if "properties" in field:
            yield from _flat(field["properties"], f"{before}{name}.")
        else:
            yield before + name, field["type"]


def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """Kibana's saved objects, by type and id."""
    lines = text(Path("elk/kibana/saved-objects.ndjson")).splitlines()
    return {(each["type"], each["id"]): each for each in map(json.loads, lines)}


# -- files that are written by programs ------------------------------------------------------------------------


def test_files_are_up_to_date() -> None:
    """Each is what its module prints."""
    template = json.loads(text(Path("elk/elasticsearch/index-template.json")))
    assert template == index_template(), (
        "run: python -m elk.elasticsearch.index_template > elk/elasticsearch/index-template.json"
    )
    assert text(Path("elk/kibana/saved-objects.ndjson")) == ndjson(), (
        "run: python -m elk.kibana.saved_objects > elk/kibana/saved-objects.ndjson"
    )


# -- Elasticsearch -----------------------------------------------------------------------------------------------


def test_the_index_has_the_fields_of_the_logs() -> None:
    """The same ones, with the same types, and never any other: what a line holds beyond them makes no field. (That real
    events have these types is in test_log_contents_simulated.py.)"""
    fields = {name: type_ for name, type_ in mapped().items() if not name.startswith("data_stream.")}
    assert fields == documented()
    template = index_template()["template"]
    assert isinstance(template, dict)
    assert template["mappings"]["dynamic"] is False
    assert template["settings"]["index.mapping.ignore_malformed"] is True
    assert len(mapped()) < template["settings"]["index.mapping.total_fields.limit"]


def test_indexes_come_to_an_end() -> None:
    """The template names the policy that elk/elasticsearch/load writes, and that one deletes after some days."""
    policy = json.loads(text(Path("elk/elasticsearch/lifecycle.json")))["policy"]
    assert re.fullmatch(r"\d+d", policy["phases"]["delete"]["min_age"])
    assert "rollover" in policy["phases"]["hot"]["actions"]
    load = text(Path("elk/elasticsearch/load"))
    assert f"_ilm/policy/{LIFECYCLE} lifecycle.json" in load and "index-template.json" in load


# -- Logstash ----------------------------------------------------------------------------------------------------


def settings_of(pipeline: Pipeline, path: str) -> dict[str, Any]:
    """What a plugin is set to."""
    [(_, options)] = pipeline.search(f"{path}.*")
    found = {name: values[0] for name, values in options}
    assert found, path
    return found


def test_the_pipeline_is_one() -> None:
    """Logstash's own grammar reads it; lines of JSON come in at the port that services ship to by default, what is no
    event is dropped, and the rest goes into the data stream that the template is for."""
    pipeline = Pipeline((ROOT / PIPELINE).read_text())
    assert [section[0] for section in pipeline.parse()] == ["input", "filter", "output"]
    tcp = settings_of(pipeline, "input.tcp")
    assert tcp["port"] == "${LOGSTASH_PORT:5533}" and tcp["codec"] == "json_lines"
    out = settings_of(pipeline, "output.elasticsearch")
    stream = "-".join(out[f"data_stream_{part}"] for part in ("type", "dataset", "namespace"))
    assert re.fullmatch(DATA_STREAMS.replace("*", ".*"), stream) and INDEX == DATA_STREAMS
    assert str(out["data_stream"]).lower() == "true"
    dropped = re.findall(r"if (.*) {\s+drop", text(PIPELINE))
    assert dropped == ['"_jsonparsefailure" in [tags]', "![event] or ![service] or ![level]"]


@pytest.mark.parametrize(
    "broken", ["input { tcp { port => } }", "input { tcp { port => 1 }", "filter { if [a { } }"]
)
def test_a_broken_pipeline_is_seen(broken: str) -> None:
    """The parser is one that refuses something."""
    with pytest.raises(Exception, match=r"."):
        Pipeline(broken).parse()


# -- Kibana ------------------------------------------------------------------------------------------------------


def test_objects_refer_to_what_is_there() -> None:
    """Every reference is to an object of the file, and is used by its name; the dashboard shows every panel."""
    found = objects()
    for each in found.values():
        for reference in each["references"]:
            assert (reference["type"], reference["id"]) in found, reference
    board = found["dashboard", "dist-zero"]
    panels = json.loads(board["attributes"]["panelsJSON"])
    names = {f"{panel['panelIndex']}:{panel['panelRefName']}" for panel in panels}
    assert names == {reference["name"] for reference in board["references"]}
    shown = {(reference["type"], reference["id"]) for reference in board["references"]}
    assert shown == {key for key in found if key[0] in ("lens", "search")}


def test_panels_do_not_overlap() -> None:
    """They are within 48 columns, and each has a place of its own."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(objects()["dashboard", "dist-zero"]["attributes"]["panelsJSON"]):
        place = panel["gridData"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 48 and not cells & taken
        taken |= cells


def test_the_tail_has_its_columns() -> None:
    """Those that tell machines apart, newest first, looked at again by itself."""
    tail = objects()["search", "dist-zero-tail"]["attributes"]
    columns = ["system", "machine", "service", "node", "epoch", "level", "event"]
    assert tail["columns"][: len(columns)] == columns
    assert tail["sort"][0] == ["@timestamp", "desc"]
    assert tail["refreshInterval"] == {"pause": False, "value": 5_000}


def used_fields() -> Iterator[tuple[str, str, str]]:
    """Each field that a saved object uses: where, its name, and as what."""
    tail = objects()["search", "dist-zero-tail"]["attributes"]
    for name in (*tail["columns"], *(name for name, _ in tail["sort"])):
        yield "tail", name, ""
    for (kind, id_), each in objects().items():
        if kind != "lens":
            continue
        state = each["attributes"]["state"]
        for field in re.findall(r"([\w.@]+)\s*:", state["query"]["query"]):
            yield id_, field, "string"
        for layer in state["datasourceStates"]["formBased"]["layers"].values():
            assert layer["columnOrder"] == [
                "split",
                "time",
                "value",
            ]  # the most frequent of all, then each over time
            drawn = state["visualization"]["layers"][0]
            assert {drawn["xAccessor"], drawn["splitAccessor"], *drawn["accessors"]} == set(layer["columns"])
            for column in layer["columns"].values():
                if column["sourceField"] != "___records___":
                    yield id_, column["sourceField"], column["dataType"]


def test_every_field_that_is_used_exists() -> None:
    """In the index, with a type that does for what is done with it, and in what services log."""
    types = {
        "": {"keyword", "long", "date", "date_nanos", "text"},
        "string": {"keyword"},
        "number": {"long", "double"},
        "date": {"date"},
    }
    logged = {field for call in log_calls() for field in call.fields}
    logged |= {"time", "level", "service", "event", "@timestamp", "message"}
    fields = list(used_fields())
    assert len(fields) > 20
    for where, name, kind in fields:
        assert mapped().get(name) in types[kind], (where, name)
        assert name in logged, (where, name)


def test_events_that_panels_ask_for_are_logged() -> None:
    """By their names, at levels that are shipped by default, and with the fields that are drawn of them."""
    calls = [call for call in log_calls() if call.event]
    for panel in PANELS:
        asked = re.findall(r"event: \(?([\w ]+)\)?", panel.query)
        events = [event for part in asked for event in part.split(" or ")]
        assert events or "level" in panel.query
        for event in events:
            found = [call for call in calls if event in call.event.split("|")]
            assert found and all(set(call.levels) != {"debug"} for call in found), event
            if "value" in panel.columns and panel.columns["value"]["sourceField"] != "___records___":
                assert all(panel.columns["value"]["sourceField"] in call.fields for call in found)
    assert set(RECOVERIES) <= set(table("Events"))


# -- Compose -----------------------------------------------------------------------------------------------------

ELK = {"elasticsearch", "elk-index", "logstash", "kibana", "elk-kibana"}


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text(Path("docker-compose.yml")))["services"]
    return found


def test_the_profile_is_the_stack_and_nothing_else() -> None:
    """Who does not ask for it gets none of it; nothing outside depends on it, and everything inside it on inside."""
    assert {name for name, each in services().items() if each.get("profiles") == ["elk"]} == ELK
    assert all(
        each["profiles"] in (["elk"], ["metrics"]) for each in services().values() if "profiles" in each
    )
    for name, each in services().items():
        assert all((other in ELK) is (name in ELK) for other in each.get("depends_on", {})), name


def test_the_stack_is_bounded_and_stays_on_this_host() -> None:
    """3 GB at most, at the loopback by default, healthy by a check of its own, of pinned versions that go together."""
    bytes_max = 0
    for name in ELK:
        each = services()[name]
        unit = {"m": 1024**2, "g": 1024**3}[each["mem_limit"][-1]]
        bytes_max += int(each["mem_limit"][:-1]) * unit if each["restart"] != "no" else 0
        assert re.fullmatch(r"\w+:\$\{ELASTIC_VERSION:-[89]\.\d+\.\d+\}", each["image"])
        assert all(":-127.0.0.1}:" in port for port in each.get("ports", []))
        assert each["restart"] == "no" or "healthcheck" in each
    assert bytes_max <= 3 * 1024**3
    assert len({each["image"].partition(":")[2] for name, each in services().items() if name in ELK}) == 1


def test_the_stack_loads_itself() -> None:
    """Logstash begins when the template is there; each one-shot runs a file of the tree, and mounts what it reads."""
    found = services()
    assert found["logstash"]["depends_on"] == {"elk-index": {"condition": "service_completed_successfully"}}
    for name in ("elk-index", "elk-kibana"):
        program = found[name]["entrypoint"][-1]
        assert program.startswith("/elk/") and (ROOT / program[1:]).is_file()
        assert "./elk:/elk:ro" in found[name]["volumes"]
    assert f"./{PIPELINE}:/usr/share/logstash/pipeline/logstash.conf:ro" in found["logstash"]["volumes"]


def test_services_in_compose_are_told() -> None:
    """Schedulers, agents and runners are given the settings that ship."""
    for name in ("scheduler", "machine-agent", "node-runner"):
        environment = services()[name]["environment"]
        assert environment["LOGSTASH_HOST"] == "${LOGSTASH_HOST_IN_COMPOSE:-}"
        assert environment["LOGSTASH_PORT"] == "${LOGSTASH_PORT:-5533}"


# -- elk/check ---------------------------------------------------------------------------------------------------


class Stack:
    """As much of Elasticsearch and Kibana as elk/check asks for, beside a receiver of lines."""

    def __init__(self, receiver: Receiver, lacks: str) -> None:
        stack = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer("")

            def do_POST(self) -> None:
                self.answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

            def answer(self, body: str) -> None:
                said = stack.said(self.path, body)
                self.send_response(200 if said else 404)
                self.end_headers()
                self.wfile.write(said.encode())

            def log_message(self, *_: object) -> None:
                """Quietly."""

        self._receiver, self._lacks = receiver, lacks
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def said(self, path: str, body: str) -> str:
        """The answer to a question; empty: there is none."""
        if path == f"/{INDEX}/_search":
            terms = [part["term"] for part in json.loads(body)["query"]["bool"]["filter"] if "term" in part]
            hits = [
                {"_source": event}
                for event in self._receiver.events
                if all(term.items() <= event.items() for term in terms)
            ]
            return json.dumps({"hits": {"hits": [] if self._lacks == "line" else hits}})
        if path == "/api/saved_objects/_export":
            asked = {(each["type"], each["id"]) for each in json.loads(body)["objects"]}
            return "\n".join(json.dumps(objects()[key]) for key in asked if key[0] != self._lacks)
        if path == "/api/data_views/data_view/dist-zero-logs":
            fields: dict[str, object] = {name: {} for name in mapped() if name != self._lacks}
            return json.dumps({"data_view": {"fields": fields}})
        return ""


@pytest.mark.parametrize(
    ("lacks", "complaint"),
    [
        ("", ""),
        ("line", "Elasticsearch finds the line 0 times"),
        ("dashboard", "Kibana has not: dashboard dist-zero"),
        ("machine", "the data view lacks machine"),
    ],
)
def test_elk_check(lacks: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is content with a stack that does what it is for, and says what one lacks that does not."""
    with Receiver() as receiver:
        stack = Stack(receiver, lacks)
        try:
            given = ["--logstash", f"127.0.0.1:{receiver.port}", "--seconds", "2" if lacks else "60"]
            code = check([*given, "--elasticsearch", stack.url, "--kibana", stack.url])
        finally:
            stack.close()
    said = capsys.readouterr()
    assert code == (1 if lacks else 0), said
    assert complaint in said.err
    assert ("/app/discover#/view/dist-zero-tail" in said.out) is not bool(lacks)
