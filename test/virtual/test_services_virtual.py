"""The services as processes of their own over a real RabbitMQ: set up, told to end, killed, cut off, refused."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero_common.protocol.messages.requests import ProgramState, ProgramStatus
from dist_zero_common.store.directory import DirectoryStore
from examples.leaderboard import Score, app
from test.virtual.processes import SECONDS_MAX, Services, services, wait_gone
from test.virtual.proxy import Proxy
from test.virtual.rabbitmq_server import RabbitServer

SYSTEM = "test"


def scores(count: int) -> list[Score]:
    """So many rows, each of another player."""
    return [Score(game="go", player=f"player-{number}", points=number) for number in range(count)]


async def check_board(client: Client, count: int) -> None:
    """The view is right when so many rows have been written."""
    best = [vars(row) for row in await client.rows("board")]
    expected = [(place, count - place) for place in range(1, min(10, count) + 1)]
    assert sorted((row["place"], row["points"]) for row in best) == expected


def test_processes_are_a_system_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """A scheduler, an agent and a runner that is a machine of its own run a program over both machines; all are
    healthy; told to end they do, say nothing, and leave a store that anybody may open."""

    async def main(started: Services) -> None:
        all_of_them = [started.scheduler(machines=2), started.agent("m-agent"), started.runner("m-alone")]
        async with RemoteSystem(rabbitmq_url, SYSTEM).connect(app, nodes=4) as client:
            await client.put("scores", scores(100))
            await check_board(client, 100)
        placed = await all_of_them[0].wait_event("program_placed")
        assert placed["runners"] == ["m-agent-r1", "m-alone-r1"]
        for service in all_of_them:
            assert "healthy" in await service.wait_health(0)
        for service in all_of_them:  # the scheduler first: it would say that others are gone
            assert await service.ended(signal.SIGTERM) == (0, "")
            assert service.health() == (1, f"no service runs that logs to {service.logs}\n")
        store = DirectoryStore(tmp_path / "store")
        assert await store.list("programs/leaderboard/log/")
        await store.close()

    with services(tmp_path, rabbitmq_url, SYSTEM) as started:
        asyncio.run(main(started))


def test_every_line_says_whose_it_is_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """The logs name the system, and what belongs to a machine or a runner names those, too."""

    async def main(started: Services) -> None:
        scheduler, agent = started.scheduler(), started.agent("m1")
        async with RemoteSystem(rabbitmq_url, SYSTEM).connect(app, nodes=2) as client:
            await client.put("scores", scores(10))
        for service in (agent, scheduler):
            assert await service.ended(signal.SIGINT) == (0, "")
        for entry in (*scheduler.events(), *agent.events()):
            assert entry["system"] == SYSTEM, entry
            if entry["service"] != "scheduler" and entry["event"] != "process_started":
                assert entry["machine"] == "m1", entry
            if entry["service"] == "node-runner" and entry["event"] != "process_started":
                assert entry["runner"] == "m1-r1" and entry["runner_incarnation"], entry
        files = {path.name for path in agent.logs.iterdir()}
        incarnation = agent.found("runner_started", service="machine-agent")[0]["incarnation"]
        assert files == {
            f"{name}.{kind}"
            for name in ("machine-agent", f"node-runner-m1-r1-{incarnation}")
            for kind in ("log", "jsonl")
        }

    with services(tmp_path, rabbitmq_url, SYSTEM) as started:
        asyncio.run(main(started))


def test_a_killed_agent_takes_its_runners_along_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """Killed without a chance to say anything, an agent leaves no runner behind; another machine takes over what
    they hosted, and nothing that was committed is lost."""

    async def main(started: Services) -> None:
        started.scheduler()
        agent = started.agent("m1")
        async with RemoteSystem(rabbitmq_url, SYSTEM).connect(app, nodes=2) as client:
            await client.put("scores", scores(20))
            runner = await agent.wait_event("process_started", service="node-runner")
            await agent.ended(signal.SIGKILL)
            assert isinstance(runner["pid"], int)
            await wait_gone(runner["pid"])
            started.runner("m2")
            await client.put("scores", scores(40))
            await check_board(client, 40)

    with services(tmp_path, rabbitmq_url, SYSTEM) as started:
        asyncio.run(main(started))


def test_another_scheduler_takes_over_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """One leads, the other stands by and is healthy. The first is stopped, as by a machine that hangs: the second
    leads, and nothing moves; it wakes up: it stands by. The second is killed: the first leads again. Writes go on all
    the while."""

    async def main(started: Services) -> None:
        first = started.start("scheduler", "first")
        await first.wait_event("scheduler_started")
        second = started.start("scheduler", "second")
        await second.wait_event("scheduler_stands_by")
        agent = started.agent("m1")
        system = RemoteSystem(rabbitmq_url, SYSTEM)
        async with system.connect(app, nodes=2) as client:
            await client.put("scores", scores(10))
            assert "healthy" in await second.wait_health(0)
            assert len((await system.status()).standbys) == 1
            first.process.send_signal(signal.SIGSTOP)
            await client.put("scores", scores(20))
            await second.wait_event("scheduler_started")
            async with RemoteSystem(rabbitmq_url, SYSTEM).connect("leaderboard") as other:
                assert other.placement.generation == client.placement.generation
                await check_board(other, 20)
            first.process.send_signal(signal.SIGCONT)
            await first.wait_event("scheduler_deposed")
            await first.wait_event("scheduler_stands_by")
            await client.put("scores", scores(30))
            await second.ended(signal.SIGKILL)
            await client.put("scores", scores(40))
            await first.wait_event("scheduler_started", count=2)
            status = await system.status()
            assert status.programs[0].generation == client.placement.generation
            await check_board(client, 40)
        assert len(agent.found("runner_started", service="machine-agent")) == 1

    with services(tmp_path, rabbitmq_url, SYSTEM) as started:
        asyncio.run(main(started))


def test_more_nodes_and_one_machine_less_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """A program is given more nodes, and a machine is emptied, so that killing it harms nobody: the view is the same
    before, between and after, and writes go on."""

    async def main(started: Services) -> None:
        started.scheduler(machines=3)
        machines = {name: started.runner(name) for name in ("m1", "m2", "m3")}
        system = RemoteSystem(rabbitmq_url, SYSTEM)
        async with system.connect(app, nodes=4) as client:
            await client.put("scores", scores(50))
            board, generation = await client.rows("board"), client.placement.generation
            await system.scale("leaderboard", 6)
            assert await client.rows("board") == board
            (before,) = (await system.status()).programs
            assert len(before.nodes) == 6 and before.generation > generation
            await system.drain("m2")
            program = await _program_without(system, "m2")
            assert len(program.nodes) == 6 and program.generation == before.generation
            assert await client.rows("board") == board
            (note,) = (each.note for each in (await system.status()).machines if each.machine == "m2")
            assert note == "drained"
            await machines["m2"].ended(signal.SIGKILL)
            await client.put("scores", scores(60))
            await check_board(client, 60)

    with services(tmp_path, rabbitmq_url, SYSTEM) as started:
        asyncio.run(main(started))


async def _program_without(system: RemoteSystem, machine: str) -> ProgramStatus:
    """The program, when nothing of it is on this machine and all of it runs."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        (program,) = (await system.status()).programs
        used = {program.sequencer_machine, *(node.machine for node in program.nodes)}
        if machine not in used and program.state is ProgramState.RUNNING:
            return program
        assert time.monotonic() < deadline, program
        await asyncio.sleep(0.1)


def test_an_agent_that_leaves_is_not_waited_for_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """Told to end, an agent says that its runners have ended, so the scheduler places their nodes elsewhere before
    the machine could count as silent."""

    async def main(started: Services) -> None:
        scheduler = started.scheduler(machines=2)
        leaving = started.agent("m1")
        started.runner("m2")
        async with RemoteSystem(rabbitmq_url, SYSTEM).connect(app, nodes=2) as client:
            await client.put("scores", scores(20))
            assert await leaving.ended(signal.SIGTERM) == (0, "")
            assert leaving.found("runner_exited", how="exit code 0")
            await scheduler.wait_event("program_placed", count=2)
            assert not scheduler.found("silent")
            await client.put("scores", scores(40))
            await check_board(client, 40)

    with services(tmp_path, rabbitmq_url, SYSTEM) as started:
        asyncio.run(main(started))


def test_a_killed_runner_is_reported_and_another_one_started_virtual(
    rabbitmq_url: str, tmp_path: Path
) -> None:
    """The agent notices, says how its runner ended, and starts the next incarnation when it is told to."""

    async def main(started: Services) -> None:
        started.scheduler()
        agent = started.agent("m1")
        async with RemoteSystem(rabbitmq_url, SYSTEM).connect(app, nodes=2) as client:
            await client.put("scores", scores(20))
            runner = await agent.wait_event("process_started", service="node-runner")
            assert isinstance(runner["pid"], int)
            os.kill(runner["pid"], signal.SIGKILL)
            await agent.wait_event("runner_exited", how="killed by SIGKILL")
            await agent.wait_event("process_started", count=2, service="node-runner")
            await client.put("scores", scores(40))
            await check_board(client, 40)

    with services(tmp_path, rabbitmq_url, SYSTEM) as started:
        asyncio.run(main(started))


def test_a_broker_that_is_away_is_waited_for_virtual(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    """Services that start before their broker say so, ask again, and begin when it is there; told to end before
    that, they do."""

    async def main(started: Services) -> None:
        async with Proxy(rabbitmq.host, rabbitmq.port) as proxy:
            proxy.refuse()
            url = rabbitmq_url.replace(f":{rabbitmq.port}/", f":{proxy.port}/")
            waiting = {
                module: started.start(module, module, url=url, DIST_ZERO_MACHINE=module.replace("_", "-"))
                for module in ("scheduler", "machine_agent", "node_runner")
            }
            for service in waiting.values():
                lost = await service.wait_event("broker_lost", count=2)
                assert f"127.0.0.1:{proxy.port}" in str(lost["reason"]) and "tester@" not in str(lost)
                assert service.health()[0] == 1
            code, said = await waiting.pop("machine_agent").ended(signal.SIGTERM)
            assert code == 0 and "broker_lost" in said
            proxy.heal()
            for service in waiting.values():
                assert "healthy" in await service.wait_health(0)

    with services(tmp_path, rabbitmq_url, SYSTEM) as started:
        asyncio.run(main(started))


def test_a_broker_that_refuses_ends_a_service_virtual(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    """With a wrong password nothing will come of waiting: exit code 3, and a sentence without the password. So it
    ends a machine that is one process if only its runner's user is refused."""

    async def main(started: Services) -> None:
        wrong = rabbitmq_url.replace("tester@", "hunter2@")
        refused = [started.start(module, module, url=wrong) for module in ("scheduler", "machine_agent")]
        for service, name in zip(refused, ("scheduler", "machine-agent"), strict=True):
            code, said = await service.ended()
            assert code == 3
            assert said.splitlines()[-1].startswith(f"{name}: ") and "hunter2" not in said, said
            assert f"{rabbitmq.host}:{rabbitmq.port}" in said and "Traceback" not in said, said
        started.start("scheduler", "good-scheduler")
        machine = started.start("node_runner", "machine", DIST_ZERO_RUNNER_AMQP_URL=wrong)
        code, said = await machine.ended()
        assert code == 3 and said.splitlines()[-1].startswith("node-runner: "), said

    with services(tmp_path, rabbitmq_url, SYSTEM) as started:
        asyncio.run(main(started))


def test_health_ends_with_the_connection_virtual(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    """A service whose broker says nothing any more is alive and not healthy; when it answers again, it is. That is
    so for a scheduler, too, which has nothing to do all the while."""

    async def main(started: Services) -> None:
        async with Proxy(rabbitmq.host, rabbitmq.port) as proxy:
            url = rabbitmq_url.replace(f":{rabbitmq.port}/", f":{proxy.port}/")
            scheduler = started.start("scheduler", "scheduler", url=url)
            agent = started.start("machine_agent", "agent", url=url, DIST_ZERO_SYSTEM="another")
            for service in (scheduler, agent):
                assert "healthy" in await service.wait_health(0)
            proxy.stall()
            for service in (scheduler, agent):
                assert "has done nothing for" in await service.wait_health(1)
                assert service.process.poll() is None
            proxy.heal()
            for service in (scheduler, agent):
                assert "healthy" in await service.wait_health(0)

    with services(tmp_path, rabbitmq_url, SYSTEM) as started:
        asyncio.run(main(started))
