"""A machine agent as a process of its own: `python -m services.machine_agent`. Its runners are its children."""

import sys
from collections.abc import Mapping

from dist_zero_common.broker.topology import agent_inbox
from dist_zero_common.settings import Settings, child_environment
from services.entry import Process, main, missing_broker, missing_store, missing_system
from services.machine_agent.launchers.process import ProcessLauncher
from services.machine_agent.machine import Machine, this_machine
from services.machine_agent.measured import measure_agent
from services.machine_agent.service import AgentService
from services.measuring import metrics_of_child
from services.progress import Watched


def missing(settings: Settings) -> list[str]:
    """What an agent cannot do without; the store is for the runners that it starts."""
    return [*missing_broker(settings), *missing_system(settings), *missing_store(settings)]


async def serve(process: Process) -> None:
    """Look after this machine until cancelled."""
    settings = process.settings
    machine = this_machine(settings.machine)
    process.log = process.log.bind(machine=machine.name)
    process.measured.machine = machine.name

    def environment(runner: str, incarnation: int) -> Mapping[str, str]:
        return child_environment(runner_settings(settings, machine, runner, incarnation))

    async with ProcessLauncher(environment, process.log) as launcher:
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


def runner_settings(settings: Settings, machine: Machine, runner: str, incarnation: int) -> dict[str, str]:
    """What a runner that is a child of the agent's is told; the agent's own password is not for it."""
    url = settings.runner_broker_url or settings.broker_url
    return metrics_of_child(settings) | {
        "AMQP_URL": url,
        "DIST_ZERO_RUNNER_AMQP_URL": url,
        "DIST_ZERO_SYSTEM": settings.system,
        "DIST_ZERO_MACHINE": machine.name,
        "DIST_ZERO_RUNNER": runner,
        "DIST_ZERO_RUNNER_INCARNATION": str(incarnation),
    }


if __name__ == "__main__":
    sys.exit(main("machine-agent", serve, missing))
