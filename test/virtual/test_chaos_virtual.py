"""A bank in containers under chaos: see `chaos.py`."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from examples.bank import app
from test.virtual.bank_clients import Loader
from test.virtual.chaos import drawn, under_chaos
from test.virtual.containers import container_system, kept_system

MACHINES, SCHEDULERS = 4, 2


def run(directory: Path, seed: int, faults: int) -> None:
    """So many faults, drawn from the seed."""

    async def main() -> None:
        async with (
            container_system(
                f"dzt-chaos-{seed}",
                directory,
                machines=MACHINES,
                schedulers=SCHEDULERS,
                broker_keeps=bool(seed % 2),
            ) as system,
            under_chaos(system, seed) as site,
        ):
            await site.suffer(drawn(random.Random(seed), faults, system))

    asyncio.run(main())


def run_kept(directory: Path, seed: int, faults: int) -> None:
    """The same upon a system that a keeper holds up, as `dist-zero up` does."""

    async def main() -> None:
        async with (
            kept_system(f"dzt-kept-{seed}", directory, machines=MACHINES) as system,
            under_chaos(system, seed) as site,
        ):
            await site.suffer(drawn(random.Random(seed), faults, system))

    asyncio.run(main())


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_the_bank_under_some_faults_virtual(docker_or_skip: None, tmp_path: Path, seed: int) -> None:  # noqa: ARG001
    """About a minute of them."""
    run(tmp_path, seed, faults=8)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 106))
def test_the_bank_under_chaos_virtual(docker_or_skip: None, tmp_path: Path, seed: int) -> None:  # noqa: ARG001
    """Some minutes of them."""
    run(tmp_path, seed, faults=60)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(200, 203))
def test_a_kept_bank_under_chaos_virtual(docker_or_skip: None, tmp_path: Path, seed: int) -> None:  # noqa: ARG001
    """Containers that have ended are the keeper's to replace."""
    run_kept(tmp_path, seed, faults=40)


@pytest.mark.long
def test_a_runner_that_hangs_for_good_is_replaced_virtual(docker_or_skip: None, tmp_path: Path) -> None:  # noqa: ARG001
    """On the only machine there is: its agent lives and says that it does, too. Work goes on without a hand being
    moved."""

    async def main() -> None:
        async with (
            container_system("dzt-hung", tmp_path, machines=1) as system,
            system.remote.connect(app, nodes=2),
        ):
            loader = Loader(system.url, system.name, 0, seed=1)
            loading = asyncio.create_task(loader.run())
            await loader.heard(100)
            assert await system.signal_runner("m1", "STOP")
            await loader.heard(loader.committed + 500)
            loader.stop()
            await loading
            started = system.logged("m1", "runner_started")
            incarnations = {entry["runner_incarnation"] for entry in started if "runner_incarnation" in entry}
            assert len(incarnations) == 2

    asyncio.run(main())
