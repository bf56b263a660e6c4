"""The ten best players of every game, always up to date."""

import random
from collections.abc import Iterator

import dist_zero as dz

app = dz.Program("leaderboard")


class Score(dz.Row):
    game: str
    player: str
    points: int


scores = app.dataset("scores", Score, key=("game", "player"))
board = app.view("board", scores.top(10, by=dz.desc("points"), per="game", rank="place"))


@app.sample
def sample(rng: random.Random) -> Iterator[object]:
    for _ in range(200):
        yield [(scores, score(rng)) for _ in range(100)]


def score(rng: random.Random) -> Score:
    game, player = rng.choice(("chess", "go", "tetris")), f"player-{rng.randrange(2_000)}"
    return Score(game=game, player=player, points=rng.randrange(1_000_000))
