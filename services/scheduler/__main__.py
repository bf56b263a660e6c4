"""The scheduler as a process of its own: `python -m services.scheduler`. It obtains no machines: they come."""

import sys

from dist_zero_common.broker.topology import scheduler_inbox
from dist_zero_common.settings import Settings
from services.entry import Process, main, missing_broker, missing_store, missing_system, opened_store
from services.progress import Watched
from services.scheduler.service import SchedulerService
from services.scheduler.spawners.none import NoSpawner
from services.scheduler.state import SchedulerOptions


def missing(settings: Settings) -> list[str]:
    """What a scheduler cannot do without."""
    return [*missing_broker(settings), *missing_system(settings), *missing_store(settings)]


async def serve(process: Process) -> None:
    """Be the scheduler until cancelled."""
    settings = process.settings
    async with opened_store(process, f"scheduler-{process.clock.now_us()}") as store:
        service = SchedulerService(
            system=settings.system,
            connect=process.connect(settings.broker_url, f"{settings.system}: scheduler"),
            store=store,
            clock=process.clock,
            spawner=NoSpawner(settings.machines),
            log=process.log,
            options=SchedulerOptions(machines=settings.machines, keeps_programs=True),
        )

        def watched() -> Watched | None:
            post = getattr(service, "post", None)  # it comes with the scheduler's number
            return post and Watched(post, scheduler_inbox(settings.system))

        with process.watching(watched):
            await service.run()


if __name__ == "__main__":
    sys.exit(main("scheduler", serve, missing))
