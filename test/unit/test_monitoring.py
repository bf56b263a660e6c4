"""What stands around the metrics: every expression of alerts and dashboard speaks of metrics and labels that there are,
and Compose starts Prometheus and Grafana with these files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_zero_common.metrics import METRICS, Kind
from dist_zero_common.protocol.messages.requests import ProgramState

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
TARGET_LABELS = {"system", "service", "machine", "job", "instance"}
"""What Prometheus knows of each target: services/measuring.py says so in the files that it writes."""
FOREIGN = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}
FUNCTIONS = {
    "absent",
    "rate",
    "increase",
    "deriv",
    "histogram_quantile",
    "sum",
    "max",
    "min",
    "avg",
    "by",
    "and",
    "or",
}

_STRING = re.compile(r'"[^"]*"')
_RANGE = re.compile(r"\[\d+[smhd]\]")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
_GROUPING = re.compile(r"\bby\s*\(([^)]*)\)")
_NAME = re.compile(r"[a-zA-Z_:][\w:]*")


def names_in(expression: str) -> set[str]:
    """The metrics that an expression of PromQL speaks of."""
    text = _GROUPING.sub("", _SELECTOR.sub(r"\1", _RANGE.sub("", _STRING.sub('""', expression))))
    return set(_NAME.findall(text)) - FUNCTIONS


def labels_of(name: str) -> set[str]:
    """The labels that a metric has, as it is stored. Raises `AssertionError` if nobody exports it."""
    if name in FOREIGN:
        return TARGET_LABELS
    base = re.sub("_(bucket|sum|count)$", "", name)
    if base != name and base in METRICS:
        assert METRICS[base].kind is Kind.HISTOGRAM, name
        return {*METRICS[base].labels, *TARGET_LABELS, *(["le"] if name.endswith("_bucket") else [])}
    assert name in METRICS, f"nobody exports {name}"
    assert METRICS[name].kind is not Kind.HISTOGRAM, f"of {name} there are _bucket, _sum and _count"
    return {*METRICS[name].labels, *TARGET_LABELS}


def check(expression: str) -> None:
    """Every name is one of a metric, counters stand in a rate or an increase, and labels are those that there are."""
    names = names_in(expression)
    assert names, expression
    labels = {label for name in names for label in labels_of(name)}
    for name, matchers in _SELECTOR.findall(expression):
        for label, value in re.findall(r'(\w+)\s*[=!]~?\s*"([^"]*)"', matchers):
            assert label in labels_of(name), f"{name} has no {label}"
            if label == "state":
                assert value in {state.value for state in ProgramState}
    for grouped in _GROUPING.findall(expression):
        assert {label.strip() for label in grouped.split(",")} <= labels, expression
    for name in names:
        if (
            name in METRICS
            and METRICS[name].kind is Kind.COUNTER
            and not expression.startswith(("sum(", "sum by"))
        ):
            assert re.search(rf"(rate|increase)\({name}", expression), expression


def shown_labels(expression: str) -> set[str]:
    """The labels that the result of an expression has: where it is grouped, no others."""
    labels = {label for name in names_in(expression) for label in labels_of(name)}
    for grouped in _GROUPING.findall(expression):
        labels &= {label.strip() for label in grouped.split(",")}
    return labels


def alerts() -> list[dict[str, Any]]:
    """All rules of the example."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """All panels of the dashboard that show something."""
    found = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_alerts_speak_of_what_there_is(rule: dict[str, Any]) -> None:
    """Expressions, and the labels in what people are told; each says how bad it is and what to do."""
    check(rule["expr"])
    known = shown_labels(rule["expr"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    for text in rule["annotations"].values():
        assert {*re.findall(r"\$labels\.(\w+)", text)} <= known
        assert text.endswith((".", "?"))


def test_alerts_are_for_what_was_asked() -> None:
    """No name comes twice, and what has to be told is."""
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    wanted = (
        "NoLeader",
        "MachineSilent",
        "LagGrows",
        "NoCheckpoint",
        "ProgramHalted",
        "MessagesAside",
        "RunnersDie",
    )
    assert {f"DistZero{name}" for name in wanted} <= set(names)


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_panels_speak_of_what_there_is(panel: dict[str, Any]) -> None:
    """Expressions, and the labels of their legends."""
    for target in panel["targets"]:
        check(target["expr"])
        known = shown_labels(target["expr"])
        assert {*re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])} <= known, target
    assert panel["gridPos"]["w"] * len(panel["targets"]) and panel["fieldConfig"]["defaults"]["unit"]


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    """Numbers of panels are unique, none covers another, all have the source that is provisioned; its variables ask for
    metrics and labels that there are."""
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    everything = dashboard["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    covered: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & covered and at["x"] + at["w"] <= 24
        covered |= cells
    (source,) = yaml.safe_load((MONITORING / "grafana/datasources.yml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}
    for variable in dashboard["templating"]["list"]:
        found = re.fullmatch(r"label_values\((\w+)(?:\{[^}]*\})?, (\w+)\)", variable["definition"])
        assert found is not None and found[2] in labels_of(found[1])


def test_prometheus_reads_the_alerts_and_finds_services() -> None:
    """The example has the file of alerts, and looks for the files that services write."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert config["rule_files"] == ["alerts.yml"]
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "dist-zero" and job["honor_labels"] is True
    (found,) = job["file_sd_configs"]
    assert all(name.endswith("*.metrics.json") for name in found["files"])


def test_compose_starts_them_with_these_files() -> None:
    """Only when the profile is asked for, reachable from this host alone; every file that is mounted is there, and the
    services give out metrics."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name in ("prometheus", "grafana"):
        service = services[name]
        assert service["profiles"] == ["metrics"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).is_file(), mount
    assert "logs:/logs:ro" in services["prometheus"]["volumes"]
    for name in ("scheduler", "machine-agent", "node-runner"):
        assert services[name]["environment"]["DIST_ZERO_METRICS_PORT"].endswith(":-9464}")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_against_them() -> None:
    """Prometheus' own checker, where there is one."""
    for command in (["check", "rules", "alerts.yml"], ["check", "config", "--syntax-only", "prometheus.yml"]):
        subprocess.run(["promtool", *command], cwd=MONITORING, check=True, capture_output=True)


@pytest.mark.parametrize(
    "wrong",
    [
        "dist_zero_leadr < 1",
        "sum by (progam) (rate(dist_zero_rows_in_total[1m]))",
        'dist_zero_program_state{state="stopped"} == 1',
        "dist_zero_messages_aside_total > 0",
        'dist_zero_leader{program="x"} < 1',
        "rate(dist_zero_epoch_seconds[5m])",
        "dist_zero_leader_bucket",
    ],
)
def test_what_is_wrong_is_found(wrong: str) -> None:
    """The check sees misspelt metrics, labels and values, bare counters, and histograms without their suffix."""
    with pytest.raises(AssertionError):
        check(wrong)
