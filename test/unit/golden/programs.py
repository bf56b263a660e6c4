"""Small programs whose `explain` is kept beside this file, one text per program. Lines here are part of the texts."""

from __future__ import annotations

import datetime as dt

import dist_zero as dz


class Score(dz.Row):
    """One game played."""

    game: str
    player: str
    points: int


class Payment(dz.Row):
    """A row of a dataset without a key."""

    card: str
    at: dt.datetime
    amount: float


class Card(dz.Row):
    """What is known of a card."""

    card: str
    holder: str
    limit: float


leaderboard = dz.Program("leaderboard")
scores = leaderboard.dataset("scores", Score, key=("game", "player"))
leaderboard.view("best", scores.top(10, by=dz.desc("points"), per="game", rank="place"))
leaderboard.view("players", scores.group_by().agg(players=dz.count(), points=dz.sum("points")))

fraud = dz.Program("fraud")
payments = fraud.dataset("payments", Payment)
cards = fraud.dataset("cards", Card, key="card", broadcast=True)
spent = (
    payments.window("at", size="1h", every="10m")
    .group_by("card", "window_start", "window_end")
    .agg(spent=dz.sum("amount"), payments=dz.count())
)
known = spent.join(cards, on="card")
fraud.view("over_limit", known.where(known["spent"] > known["limit"]))

rates = dz.Program("rates")
plays = rates.dataset("plays", Score, key=("game", "player"))
other = plays.alias("other")
pairs = plays.join(
    other,
    on=(plays["game"] == other["game"])
    & (plays["points"] % 7 == other["points"] % 7)
    & (plays["points"] < 9),
    how="left",
)
rates.view(
    "rates", pairs.select("game", "player", rival="player_right", rate=pairs["points"] // other["points"])
)

PROGRAMS = (leaderboard, fraud, rates)
