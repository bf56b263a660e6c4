"""A node runner as a process of its own: `python -m services.node_runner`.

Started by a machine agent, it is the incarnation that the agent names. Started by anybody else, it is a machine of
its own: an agent, and a runner in the same process, each with a connection to the broker, because their users may
differ.
"""

import sys

from dist_zero.native import choice
from dist_zero_common.broker.topology import agent_inbox, runner_inbox
from dist_zero_common.errors import BrokerError, first_error
from dist_zero_common.settings import Settings
from dist_zero_common.store.base import Store
from services.entry import (
    Process,
    end_with_parent,
    main,
    missing_broker,
    missing_store,
    missing_system,
    opened_store,
)
from services.machine_agent.launchers.in_process import InProcessLauncher
from services.machine_agent.machine import this_machine
from services.machine_agent.measured import measure_agent
from services.machine_agent.service import AgentService
from services.node_runner.measured import inboxes_of, measure_runner, this_process
from services.node_runner.sequencer_events import SequencerOptions
from services.node_runner.service import RunnerService
from services.progress import Watched


def missing(settings: Settings) -> list[str]:
    """What a runner cannot do without."""
    return [*missing_broker(settings), *missing_system(settings), *missing_store(settings)]


async def serve(process: Process) -> None:
    """Be a runner, or a machine with one, until cancelled."""
    settings = process.settings
    if not settings.runner:
        await _serve_machine(process)
        return
    end_with_parent()
    runner, incarnation = settings.runner, settings.runner_incarnation
    process.log = process.log.bind(machine=settings.machine, runner=runner, runner_incarnation=incarnation)
    async with opened_store(process, f"{runner}-{incarnation}") as store:
        await _run_runner(process, store, settings.machine, runner, incarnation)


async def _serve_machine(process: Process) -> None:
    settings = process.settings
    machine = this_machine(settings.machine)
    process.log = process.log.bind(machine=machine.name)
    process.measured.machine = machine.name

    async with opened_store(process, f"{machine.name}-{process.clock.now_us()}") as store:

        async def run_runner(runner: str, incarnation: int) -> None:
            try:
                await _run_runner(process, store, machine.name, runner, incarnation)
            except* BrokerError as refused:  # as it would refuse any other incarnation
                process.fail(first_error(refused))
                raise

        async with InProcessLauncher(run_runner, process.log) as launcher:
            agent = AgentService(
                system=settings.system,
                machine=machine.name,
                connect=process.connect(settings.broker_url, f"agent of {machine.name}"),
                clock=process.clock,
                launcher=launcher,
                cores=machine.cores,
                memory_bytes=machine.memory_bytes,
                labels=settings.labels,
                log=process.log,
            )
            process.goodbye = agent.say_goodbye
            with (
                process.watching(lambda: Watched(agent.post, agent_inbox(settings.system, machine.name))),
                process.measuring(lambda readings: measure_agent(readings, agent)),
            ):
                await agent.run()


async def _run_runner(process: Process, store: Store, machine: str, runner: str, incarnation: int) -> None:
    settings = process.settings
    url = settings.runner_broker_url or settings.broker_url
    service = RunnerService(
        system=settings.system,
        runner=runner,
        incarnation=incarnation,
        machine=machine,
        connect=process.connect(url, f"runner {runner}, incarnation {incarnation}"),
        store=store,
        clock=process.clock,
        log=process.log,
        prepare=choice.prepare,
        options=SequencerOptions(collects=not settings.keep_log),
        use=this_process,
    )
    inbox = runner_inbox(settings.system, runner, incarnation)
    with (
        process.watching(lambda: Watched(service.post, inbox)),
        process.measuring(lambda readings: measure_runner(readings, service), lambda: inboxes_of(service)),
    ):
        await service.run()


if __name__ == "__main__":
    sys.exit(main("node-runner", serve, missing))
