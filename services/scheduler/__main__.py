"""A scheduler as a process of its own: `python -m services.scheduler`. It obtains no machines, they come; or, if it is
told so, instances of EC2. Of several that run, one leads, and the others stand by."""

import re
import socket
import sys
import uuid

from dist_zero_common.broker.topology import scheduler_inbox
from dist_zero_common.settings import Settings
from services.entry import Process, main, missing_broker, missing_store, missing_system, opened_store
from services.progress import Watched
from services.scheduler.growth import growth_options
from services.scheduler.hosts import HostOptions
from services.scheduler.lead import LeadOptions
from services.scheduler.measured import measure_scheduler
from services.scheduler.service import SchedulerService
from services.scheduler.spawners.base import Role, Spawner, role_of
from services.scheduler.spawners.none import NoSpawner
from services.scheduler.state import SchedulerOptions

UNOBTAINABLE = {
    Role.MACHINE: "machines come to this system by themselves: start more, or end some, as with `docker-compose up -d"
    " --scale node-runner=4`, or with `dist-zero join` on another host",
    Role.SCHEDULER: "schedulers are started by whoever runs this system: start more, or end some, as with"
    " `docker-compose up -d --scale scheduler=2`",
}
"""What to do instead of asking this scheduler for hosts."""


def missing(settings: Settings) -> list[str]:
    """What a scheduler cannot do without."""
    return [*missing_broker(settings), *missing_system(settings), *missing_store(settings)]


def unique_name() -> str:
    """The name of this scheduler: where it runs, and something that no other process has."""
    host = re.sub("[^a-z0-9]", "", socket.gethostname().partition(".")[0].lower())
    return f"s{host[:24]}-{uuid.uuid4().hex[:12]}"


def spawner_of(process: Process) -> Spawner:
    """What obtains hosts, as the settings say."""
    settings = process.settings
    if settings.spawner == "none":
        return NoSpawner(settings.machines)
    # A library that only those need who have instances.
    from dist_zero_common.cloud.aws import Aws
    from services.scheduler.spawners.ec2 import EC2Spawner

    return EC2Spawner(Aws(settings), str(settings.store), process.clock, process.log)


async def serve(process: Process) -> None:
    """Be a scheduler until cancelled."""
    settings = process.settings
    obtains = settings.spawner != "none"
    async with opened_store(process, f"scheduler-{process.clock.now_us()}") as store:
        service = SchedulerService(
            system=settings.system,
            connect=process.connect(settings.broker_url, f"{settings.system}: scheduler"),
            store=store,
            clock=process.clock,
            spawner=spawner_of(process),
            log=process.log,
            options=SchedulerOptions(
                machines=settings.machines,
                schedulers=settings.cloud_schedulers if obtains else None,
                host=settings.machine if role_of(settings.machine) is Role.SCHEDULER else "",
                hosts=HostOptions(settings.report_seconds, settings.lost_seconds),
                unobtainable={} if obtains else UNOBTAINABLE,
                store=str(settings.store),
                growth=growth_options(settings.growth),
                keeps_programs=True,
            ),
            lead=LeadOptions(name=unique_name(), lease_seconds=settings.lease_seconds),
        )

        def watched() -> Watched | None:
            post = service.post_now  # that of the leading scheduler, or of the one that stands by
            return Watched(post, scheduler_inbox(settings.system)) if post is not None else None

        with (
            process.watching(watched),
            process.measuring(lambda readings: measure_scheduler(readings, service)),
        ):
            await service.run()


if __name__ == "__main__":
    sys.exit(main("scheduler", serve, missing))
