"""`dist-zero up` of a changed program, typed by a user, over a real RabbitMQ: what it says and what it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dist_zero.cli.app import OK, USER_ERROR
from test.virtual.rabbitmq_server import RabbitServer
from test.virtual.test_commands_virtual import MACHINES, SYSTEM, Ran, Site

HEAD = """
import dist_zero as dz

app = dz.Program("stock")


class Sale(dz.Row):
    number: int
    shop: str
    pieces: {pieces}


class Visit(dz.Row):
    shop: str


class Shop(dz.Row):
    shop: str
    town: str


sales = app.dataset("sales", Sale, key="number")
visits = app.dataset("visits", Visit)
"""
SHOPS = 'app.view("shops", sales.group_by("shop").agg(n=dz.count(), pieces=dz.sum("pieces")))\n'
LARGE = 'app.view("large", sales.where(sales["pieces"] > {least}))\n'
FIRST = HEAD.format(pieces="int") + SHOPS + LARGE.format(least=5)
SECOND = (
    HEAD.format(pieces="int")
    + SHOPS
    + LARGE.format(least=3)
    + 'app.view("most", sales.top(2, by=[dz.desc("pieces"), "number"]))\n'
)
TYPED = HEAD.format(pieces="float") + SHOPS
TOWNS = SECOND + 'app.dataset("towns", Shop, key="shop")\n'
VISITED = SECOND + 'app.view("visited", visits.group_by("shop").agg(n=dz.count()))\n'


@pytest.fixture(scope="module")
def site(rabbitmq: RabbitServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A scheduler and two machines, and no program."""
    directory = tmp_path_factory.mktemp("changes")
    with ExitStack() as stack:
        site = Site(directory, rabbitmq.url(stack.enter_context(rabbitmq.virtual_host("changes"))))
        stack.callback(site.end_all)
        site.start("scheduler", "scheduler", DIST_ZERO_MACHINES=str(len(MACHINES)))
        for machine in MACHINES:
            site.start_machine(machine)
        yield site


def up(site: Site, text: str, *words: str) -> Ran:
    """Save the program and type `up`."""
    (site.directory / "stock.py").write_text(text)
    return site("up", "stock.py", "--broker", site.url, "--system", SYSTEM, "--nodes", "2", *words)


def shown(site: Site, view: str) -> list[dict[str, object]]:
    """The rows of a view."""
    rows: list[dict[str, object]] = site("show", view, "--program", "stock", "--json").json()["views"][view]
    return rows


def said(ran: Ran) -> list[list[str]]:
    """The table that `up` prints, by words; of the reason the first."""
    lines = [line.split() for line in ran.out.splitlines()]
    return [words for words in lines if words and words[0] in ("keeps", "fills", "begins", "drops")]


def rows(least: int) -> list[int]:
    """The sales of more pieces than this."""
    return [number for number in range(2_000) if number % 7 > least]


def test_a_program_is_changed_by_up_virtual(site: Site) -> None:
    """It says what it keeps and fills, a dry run only that; the old answers are served until the new ones are there;
    once more it has nothing to do."""
    first = up(site, FIRST)
    assert first.code == OK and not said(first), first
    (site.directory / "sales.csv").write_text(
        "\n".join(["number,shop,pieces", *(f"{n},{'abc'[n % 3]},{n % 7}" for n in range(2_000)), ""])
    )
    assert site("load", "sales", "sales.csv", "--program", "stock").code == OK

    dry = up(site, SECOND, "--dry-run")
    assert dry.code == OK, dry
    assert [words[:3] for words in said(dry)] == [
        ["keeps", "dataset", "sales"],
        ["keeps", "dataset", "visits"],
        ["keeps", "view", "shops"],
        ["fills", "view", "large"],
        ["fills", "view", "most"],
    ]
    assert "its definition has changed" in dry.out and "it is new" in dry.out
    assert [row["number"] for row in shown(site, "large")] == rows(5)

    changing = site.begin("up", "stock.py", "--broker", site.url, "--system", SYSTEM, "--nodes", "2")
    while changing.poll() is None:
        assert [row["number"] for row in shown(site, "large")] in (rows(5), rows(3))
    out, err = changing.communicate()
    assert changing.returncode == OK, err
    assert said(Ran(OK, out, err)) == said(dry)
    assert [row["number"] for row in shown(site, "large")] == rows(3)
    assert [row["number"] for row in shown(site, "most")] == [6, 13]
    assert sum(int(str(row["n"])) for row in shown(site, "shops")) == 2_000

    again = up(site, SECOND)
    assert again.code == OK and not said(again), again
    status = site("status", "--json").json()
    assert [(each["program"], each["state"], each["note"]) for each in status["programs"]] == [
        ("stock", "running", "")
    ]


def test_what_would_be_lost_is_refused_virtual(site: Site) -> None:
    """Another row type always, naming the column and both types; a dataset or the past of appended rows without a
    flag."""
    typed = up(site, TYPED)
    assert typed.code == USER_ERROR and "column 'pieces' was int and is float" in typed.err, typed
    assert "stock.py:" in typed.err

    towns = up(site, TOWNS)
    assert towns.code == OK and ["begins", "empty", "dataset", "towns", "it", "is", "new"] in said(towns), (
        towns
    )
    dropped = up(site, SECOND)
    assert dropped.code == USER_ERROR and "dataset 'towns'" in dropped.err, dropped
    assert "--drop-datasets" in dropped.err
    assert up(site, SECOND, "--drop-datasets").code == OK

    visited = up(site, VISITED)
    assert visited.code == USER_ERROR and "--begin-empty visited" in visited.err, visited
    assert "stock.py:" in visited.err
    assert site("load", "visits", "visits.csv", "--program", "stock").code != OK  # there is no such file yet
    begun = up(site, VISITED, "--begin-empty", "visited")
    assert begun.code == OK, begun
    (site.directory / "visits.csv").write_text("shop\na\na\nb\n")
    assert site("load", "visits", "visits.csv", "--program", "stock").code == OK
    assert shown(site, "visited") == [{"shop": "a", "n": 2}, {"shop": "b", "n": 1}]
