"""`up --mode cloud`, `down` and `orphans --cloud` as a person sees them; what they do is in `dist_zero/cloud/`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from rich.text import Text

from dist_zero.cli.render import console_for
from dist_zero.cli.status import compact_table
from dist_zero.cli.systems import (
    CLOUD_MODE,
    SystemState,
    checked_url,
    load_states,
    remove_state,
    save_state,
)
from dist_zero_common.errors import BrokerError, OperatorError
from dist_zero_common.settings import Settings

if TYPE_CHECKING:
    from dist_zero.cloud.plan import Plan
    from dist_zero.cloud.up import Bringing


def bringing_of(settings: Settings, system: str, machines: int, broker: str | None) -> Bringing:
    """What the settings ask for. Raises `SettingsError`; nothing is asked of anybody yet."""
    from dist_zero.cloud.described import broker_of, environment, fleet_of, source_of
    from dist_zero.cloud.up import Bringing
    from dist_zero_common.cloud.fleet import ROLES

    source = source_of(settings)
    fleet = fleet_of(settings, system, machines, source)
    url = checked_url(broker_of(settings, broker))
    return Bringing(fleet, {role: environment(settings, fleet, role, url) for role in ROLES}, source, url)


def show_plan(bringing: Bringing, *, verbose: bool) -> None:
    """Print what would be made, and what that costs."""
    from dist_zero.cloud.plan import lines_of
    from dist_zero_common.cloud.user_data import user_data

    plan = checked_plan(bringing)
    console = console_for()
    kind = "spot" if plan.fleet.spot else "on demand"
    console.print(Text(f"system {plan.fleet.system}: {len(plan.instances)} instances", "bold"))
    table = compact_table("host", "role", "type", "kind", ("USD per hour", "right"))
    for each in plan.instances:
        price = "not known" if each.price is None else f"{each.price:.4f}"
        table.add_row(each.host, each.role, each.type, kind, price)
    console.print(table)
    for line in lines_of(plan):
        console.print(Text(line), soft_wrap=True)
    for role, host in (("scheduler", "s1"), ("machine", "m1")) if verbose else ():
        console.print(Text(f"\nuser data of {host}:\n", "bold"))
        console.print(Text(user_data(plan.fleet, host, role)), soft_wrap=True)


def checked_plan(bringing: Bringing) -> Plan:
    """The plan, if the limits allow it. Raises `OperatorError`."""
    from dist_zero.cloud.plan import plan_of
    from dist_zero_common.cloud.fleet import SCHEDULER, role_name

    fleet = bringing.fleet
    made = fleet.scheduler.profile == role_name(fleet.system, SCHEDULER)
    plan = plan_of(fleet, makes_group=not fleet.security_groups, makes_roles=made)
    if fleet.max_usd_per_hour and plan.total > fleet.max_usd_per_hour + 1e-9:
        raise OperatorError(
            f"system {fleet.system} would cost {plan.total:.4g} USD per hour, more than max-usd-per-hour"
            f" {fleet.max_usd_per_hour:g}: ask for fewer machines or smaller types, or raise --max-usd-per-hour"
        )
    return plan


def bring_up(bringing: Bringing, settings: Settings, program: str, *, asked_machines: bool) -> None:
    """Bring the system up, or what is missing of it, and return when its machines are ready. `asked_machines`: their
    number was said, and is no default."""
    from dist_zero.client.remote import RemoteSystem
    from dist_zero.cloud.up import Launching, hand_over, prepare, wait_ready
    from dist_zero_common.cloud.aws import Aws
    from dist_zero_common.cloud.instances import Instances

    plan = checked_plan(bringing)
    system = plan.fleet.system
    logs = settings.log_directory.absolute()
    asyncio.run(_check_broker(bringing.broker_url, system))
    state = SystemState(
        system=system,
        mode=CLOUD_MODE,
        broker_url=bringing.broker_url,
        keeper="",
        store=plan.fleet.store,
        log_dir=str(logs),
        program=program,
        region=plan.fleet.region,
    )
    save_state(logs, state)  # before anything is there, so that `down` knows of it
    aws = Aws(settings, region=plan.fleet.region)
    try:
        with Progress() as progress:
            fleet = prepare(aws, bringing, progress.tell)
            instances = Instances(aws, fleet)
            remote = RemoteSystem(bringing.broker_url, system)
            asyncio.run(wait_ready(Launching(instances), remote, fleet, progress.tell, asked=asked_machines))
            hand_over(aws, fleet, instances)
    except KeyboardInterrupt:
        console_for(stderr=True).print(
            Text(
                f"interrupted: what is there of system {system} ends itself within a lease, and at once with"
                f" `dist-zero down --system {system}`; `up` again goes on",
                "yellow",
            )
        )
        raise


async def _check_broker(url: str, system: str) -> None:
    from dist_zero_common.broker.rabbitmq import connector

    try:
        broker = await connector(url, f"up of {system}", connect_seconds=10.0)()
    except BrokerError as error:
        raise OperatorError(f"{error}; the broker is named by --broker or AMQP_URL") from error
    await broker.close()


class Progress:
    """How far it is: a line on a terminal, and one that stays for each thing that is done."""

    def __init__(self) -> None:
        self._console = console_for(stderr=True)
        self._status = self._console.status("starting") if self._console.is_terminal else None
        self._started = time.monotonic()
        self._done: set[str] = set()

    def __enter__(self) -> Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def tell(self, what: str, count: int, of: int) -> None:
        """`count` of `of` are done."""
        text = what if of == 1 else f"{what} {count}/{of}"
        if count >= of and what not in self._done:
            self._done.add(what)
            self._console.print(Text(f"{text} ({time.monotonic() - self._started:.1f} s)", "dim"))
        elif count < of and self._status is not None:
            self._status.update(text)


def take_down(state: SystemState, settings: Settings, tell: Callable[[str], None]) -> None:
    """End a system that was started here, tell what is removed, and forget it."""
    from dist_zero.cloud.down import take_down as take_down_instances
    from dist_zero_common.cloud.aws import Aws

    take_down_instances(Aws(settings, region=state.region), state.system, state.store, tell)
    with suppress(BrokerError):
        asyncio.run(_delete_queues(state))
    remove_state(settings.log_directory, state.system)


async def _delete_queues(state: SystemState) -> None:
    """Those whose names are known without asking; others go by themselves when nobody reads them."""
    from dist_zero.virtual import delete_queues
    from dist_zero_common.broker.topology import agent_inbox, scheduler_inbox

    agents = [agent_inbox(state.system, f"m{number}") for number in range(1, 257)]
    await delete_queues(state.broker_url, [scheduler_inbox(state.system), *agents])


def cloud_orphans(settings: Settings, system: str | None, *, remove: bool) -> tuple[list[str], bool]:
    """What systems have left at AWS, in words; with `remove` it is removed: of all that nobody renews, and of the one
    that was named. Also returns whether all of it is for removing."""
    from dist_zero.cloud.down import take_down as take_down_instances
    from dist_zero.cloud.orphans import found_systems
    from dist_zero_common.cloud.aws import Aws

    aws = Aws(settings)
    known = {state.system for state in load_states(settings.log_directory) if state.mode == CLOUD_MODE}
    found = found_systems(aws, known, time.time())
    lines, all_of_it = [], True
    for each in found:
        if system is not None and each.system != system:
            continue
        spared = each.lives and each.system != system
        lines += [f"system {each.system}: {thing}" for thing in each.things if not (remove and spared)]
        if spared:
            all_of_it = False
            console_for(stderr=True).print(
                Text(
                    f"system {each.system} lives, and was not started from this directory: it is removed only if it"
                    f" is named (--cloud --remove --system {each.system})",
                    "yellow",
                )
            )
        elif remove:
            take_down_instances(aws, each.system, "", lambda _: None)
    return lines, all_of_it
