"""The scenarios of faults that have to be survived, the invariant of each, and the tests that they are.

Numbers are those of the project's list of faults. Tests are named by file and function, with the case of a
parametrized one behind a colon; `test_every_named_test_is_there` holds the table to what there is. Where a scenario is
not a test, the table says why.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

from test.simulated.test_scenarios_simulated import SCENARIOS

TEST = Path(__file__).resolve().parent.parent

EXACT = "I1, I2: views at every epoch, and the log, are exactly right"
PROGRESS = "I5: all that is sent is committed and visible when the trouble is over"


@dataclass(frozen=True)
class Scenario:
    """One of them: what happens, what has to hold, where that is tested, and what of it is not."""

    what: str
    holds: str
    tests: tuple[str, ...]
    missing: str = ""


def planned(name: str) -> str:
    """A scenario of `test_scenarios_simulated.py`."""
    return f"simulated/test_scenarios_simulated.py::test_scenario_simulated:{name}"


TABLE = {
    1: Scenario(
        "a runner or sequencer is killed between any two of its steps: receive, write, reply, compute, publish, save",
        EXACT,
        (
            planned("killed_between_write_and_answer"),
            "simulated/test_faults_simulated.py::test_a_crash_falls_between_any_two_steps",
            "simulated/test_faults_simulated.py::test_each_kind_of_fault_is_really_applied",
            "unit/test_checkpoints.py::test_a_crash_between_any_two_steps_does_no_harm",
            "virtual/test_faults_virtual.py::test_a_fault_under_load_virtual",
        ),
    ),
    2: Scenario(
        "the same runner is killed thirty times in a row",
        EXACT,
        (
            planned("the_same_runner_is_killed_thirty_times"),
            "virtual/test_faults_virtual.py::test_faults_at_random_virtual",
        ),
    ),
    3: Scenario(
        "killed while it goes over the log again, before all that it asked for has come",
        EXACT,
        (
            planned("killed_while_it_begins_again"),
            "unit/test_attempts.py::test_an_epoch_that_kills_is_refused_at_the_fourth_beginning",
        ),
    ),
    4: Scenario(
        "a machine vanishes for a minute, another takes over, the first wakes up",
        EXACT,
        (
            "simulated/test_zombies_simulated.py::test_oracle_a_machine_that_stood_still_for_a_minute_does_no_harm",
            planned("who_hosts_the_sequencer_sleeps_and_others_take_over"),
            "virtual/test_broker_virtual.py::test_a_process_that_slept_does_not_blame_the_broker",
        ),
    ),
    5: Scenario(
        "a zombie writes between its successor's load and fence",
        "the record that is there is the epoch; one of the two is deposed",
        (
            planned("who_hosts_the_sequencer_sleeps_and_others_take_over"),
            "unit/test_sequencer.py::test_fence_comes_behind_what_an_older_one_has_written",
            "simulated/test_runner_simulated.py::test_two_sequencers_at_once",
        ),
    ),
    6: Scenario(
        "a machine is gone for good, with its disk",
        EXACT,
        (
            "simulated/test_unread_simulated.py::test_a_machine_that_dies_for_good_is_missed_at_once",
            "simulated/test_moves_simulated.py::test_oracle_views_and_log_are_right_while_machines_come_and_go",
            "virtual/test_commands_virtual.py::test_a_machine_that_is_killed_is_found_and_found_again",
        ),
    ),
    7: Scenario(
        "the broker is restarted",
        PROGRESS,
        (
            "simulated/test_connections_simulated.py::test_lost_connections_change_no_answer",
            "virtual/test_broker_virtual.py::test_a_restart_is_a_loss_like_any_other",
            "virtual/test_client_virtual.py::test_broker_restarted_under_load",
        ),
    ),
    8: Scenario(
        "the broker is killed under load",
        EXACT,
        (
            planned("a_broker_that_forgets_while_runners_die"),
            "virtual/test_broker_virtual.py::test_a_broker_killed_is_a_loss_like_any_other",
            "virtual/test_faults_virtual.py::test_a_fault_under_load_virtual",
        ),
    ),
    9: Scenario(
        "the broker loses all that it had, queues too",
        "what was committed survives the loss of the whole broker",
        (
            "simulated/test_losses_simulated.py::test_oracle_a_broker_that_forgets_everything_costs_time_alone",
            planned("all_are_killed_at_once_and_the_broker_is_replaced"),
        ),
    ),
    10: Scenario(
        "one of three brokers is killed, each in turn",
        PROGRESS,
        (
            "virtual/test_faults_virtual.py::test_each_broker_of_a_cluster_is_killed_in_turn_virtual",
            "virtual/test_client_virtual.py::test_broker_restarted_under_load",
        ),
        "our queues are classic ones, which do not move to another broker of a cluster: they are away with theirs",
    ),
    11: Scenario(
        "cut off from the broker, and not from the store",
        EXACT,
        (
            "simulated/test_zombies_simulated.py::test_oracle_a_machine_that_reaches_the_store_alone_does_no_harm",
            "virtual/test_client_virtual.py::test_cut_off_for_a_while",
        ),
    ),
    12: Scenario(
        "cut off from the store, and not from the broker",
        "no record, so no reply",
        (
            "simulated/test_zombies_simulated.py::test_oracle_a_machine_that_reaches_the_broker_alone_does_no_harm",
            "simulated/test_schedulers_simulated.py"
            "::test_a_scheduler_that_does_not_reach_the_store_lets_another_one_lead",
        ),
    ),
    13: Scenario(
        "partitions one way, that flap, and of some after the other",
        EXACT,
        (
            planned("connections_that_flap"),
            planned("one_way_partitions_of_some_one_after_the_other"),
            "simulated/test_faults_simulated.py::test_one_way_partitions_hold_messages_up",
        ),
    ),
    14: Scenario(
        "a hostile broker: loses, doubles, reorders, delays",
        EXACT,
        (
            "simulated/test_runner_simulated.py::test_views_and_log_are_right_at_every_epoch",
            "simulated/test_losses_simulated.py::test_oracle_lost_messages_are_asked_for_again",
        ),
    ),
    15: Scenario(
        "a quorum queue: other prefetch, messages dropped after some deliveries, returned in any order",
        EXACT,
        (
            "simulated/test_losses_simulated.py::test_oracle_lost_messages_are_asked_for_again",
            "contract/test_broker.py::test_any_schedule_delivers_all_and_forgets_only_the_acked",
            "virtual/test_broker_virtual.py::test_queues_are_declared_as_the_topology_says",
        ),
        "our queues are classic ones; what a delivery limit does to a message is its loss",
    ),
    16: Scenario(
        "the broker has an alarm of memory or disk for a minute",
        PROGRESS,
        (
            "simulated/test_mailbox_simulated.py::test_an_alarm_holds_everything_back_and_goes_by",
            "virtual/test_client_virtual.py::test_alarm_at_the_broker",
            "virtual/test_broker_virtual.py::test_a_full_disk_holds_up_publishes_however_long_it_lasts",
        ),
    ),
    17: Scenario(
        "a confirm never comes, or is lost; there is no such queue",
        "a publish whose outcome is unknown is published again; the owner of the queue's name hears",
        (
            "contract/test_broker.py::test_a_publish_in_flight_at_the_loss_is_unknown",
            "simulated/test_mailbox_simulated.py::test_missing_inbox_is_told_and_forgotten",
            "virtual/test_broker_virtual.py::test_of_many_messages_in_flight_exactly_the_unroutable_ones_fail",
            "virtual/test_client_virtual.py::test_cut_and_healed_at_every_stage_of_an_epoch",
        ),
    ),
    18: Scenario(
        "a full inbox refuses some messages of a stream and takes later ones",
        EXACT,
        (
            "virtual/test_broker_virtual.py::test_a_full_inbox_refuses_and_takes_again",
            "unit/test_sequencer.py::test_gap_is_asked_for_once",
        ),
    ),
    19: Scenario(
        "store: stored and said to have failed, not stored, slow for half a minute, failing twenty times in a row",
        "whatever the store answers, the record that is there is the epoch",
        (
            planned("a_store_that_is_slow_for_thirty_seconds"),
            planned("a_store_that_refuses_everything_for_a_while"),
            "unit/test_epoch_log.py::test_what_the_store_answers_is_not_believed",
            "simulated/test_store_faults_simulated.py::test_a_system_outlives_the_bad_days_of_its_store",
            "cloud/test_store_cloud.py::test_a_create_is_sent_once_and_its_outcome_is_unknown_cloud",
        ),
    ),
    20: Scenario(
        "an object of the store is missing, cut short, or has another bit",
        "it is found and said; the base before it is used, and nothing is lost; a damaged log halts its program",
        (
            planned("the_newest_base_is_damaged_again_and_again"),
            planned("a_store_that_tears_while_all_are_killed"),
            "simulated/test_recovery_simulated.py::test_a_damaged_base_is_said_and_the_one_before_it_used",
            "simulated/test_store_resume_simulated.py::test_a_damaged_or_missing_record_is_named_at_once",
            "unit/test_checkpoints.py::test_damage_of_any_kind_in_any_object_is_found_and_named",
        ),
    ),
    21: Scenario(
        "the store is full, or read-only",
        "no record, so no reply; it goes on when there is room",
        (
            planned("a_store_that_refuses_everything_for_a_while"),
            "virtual/test_faults_virtual.py::test_a_fault_under_load_virtual",
            "unit/test_directory_store.py::test_a_full_disk_is_said_and_survived",
        ),
    ),
    22: Scenario(
        "the scheduler is killed at each step of its log; two schedulers",
        "one leads; programs run where the log says",
        (
            "simulated/test_schedulers_simulated.py::test_the_leading_scheduler_may_die_at_each_step",
            "simulated/test_schedulers_simulated.py::test_the_leading_scheduler_may_die_at_any_step",
            "simulated/test_control_plane_simulated.py::test_of_schedulers_that_start_together_one_leads",
            "virtual/test_services_virtual.py::test_another_scheduler_takes_over_virtual",
        ),
    ),
    23: Scenario(
        "an agent is killed and its runners live, or the other way round",
        EXACT,
        (
            "simulated/test_control_plane_simulated.py::test_machine_that_ends_is_spawned_again_and_silence_is_noticed",
            "virtual/test_services_virtual.py::test_a_killed_agent_takes_its_runners_along_virtual",
            "virtual/test_services_virtual.py::test_a_killed_runner_is_reported_and_another_one_started_virtual",
        ),
    ),
    24: Scenario(
        "splits, merges and moves under load; whoever takes part is killed",
        EXACT,
        (
            "simulated/test_scaling_simulated.py::test_oracle_views_are_right_while_the_number_of_nodes_changes",
            planned("killed_at_each_step_of_a_change_of_nodes"),
            "virtual/test_services_virtual.py::test_more_nodes_and_one_machine_less_virtual",
        ),
    ),
    25: Scenario(
        "ten changes at once while processes die",
        EXACT,
        (
            planned("ten_wishes_at_once_while_processes_die"),
            "simulated/test_scaling_simulated.py::test_of_two_numbers_of_nodes_the_last_one_counts",
        ),
    ),
    26: Scenario(
        "the program is changed while messages of the old one are under way",
        "what is of another plan is never taken for one's own",
        (
            "simulated/test_store_resume_simulated.py::test_another_program_under_the_name_is_refused",
            "simulated/test_control_plane_simulated.py::test_another_program_of_the_same_name_is_refused",
            "simulated/test_changes_simulated.py::test_oracle_programs_change_under_faults_simulated",
            "simulated/test_change_steps_simulated.py::test_a_copy_of_a_change_that_comes_late_changes_nothing_simulated",
        ),
    ),
    27: Scenario(
        "a rolling upgrade, and back",
        "views and log are right; messages and objects of either version are read by both",
        (
            "simulated/test_upgrade_simulated.py::test_oracle_a_rolling_upgrade_and_back_simulated",
            "simulated/test_upgrade_simulated.py::test_each_version_reads_what_the_other_says",
            "simulated/test_upgrade_simulated.py::test_a_message_that_only_the_next_version_has_is_set_aside",
            "unit/test_codec.py::test_encoding_is_a_stored_format",
        ),
        "there is one version: the next one is made of its schemas, by their rules",
    ),
    28: Scenario(
        "a row that raises, hangs, eats memory or kills the process",
        "the program stands still with the evidence, others go on, and the transaction can be voided",
        (
            "simulated/test_void_simulated.py"
            "::test_oracle_a_program_stands_still_and_goes_on_without_the_void_transaction",
            "simulated/test_void_simulated.py::test_oracle_an_epoch_that_ends_processes_is_refused_after_some_tries",
            "simulated/test_stuck_simulated.py::test_oracle_who_does_not_get_on_begins_again_elsewhere",
        ),
    ),
    29: Scenario(
        "a function of the user's that answers differently each time",
        "a divergence halts the program, with both versions kept",
        (
            "unit/test_node_kernel.py::test_second_copy_that_differs_halts_the_node",
            "unit/test_checkpoints.py::test_incarnations_that_differ_are_told_and_both_contents_are_kept",
        ),
        "no code of users crosses the wire",
    ),
    30: Scenario(
        "clocks jump by an hour, are wrong by minutes",
        "nothing is decided by them, and times of records never go back",
        (
            planned("clocks_jump_by_an_hour_and_back"),
            "simulated/test_faults_simulated.py::test_clocks_are_wrong_by_machine",
            "unit/test_sequencer.py::test_record_time_never_goes_back",
        ),
    ),
    31: Scenario(
        "a consumer that is a hundred times slower; a key that everybody writes to",
        "I6: what is kept for it is bounded; others wait for nobody",
        (
            planned("a_watcher_that_stands_still_for_minutes"),
            "simulated/test_client_simulated.py::test_a_reader_who_is_far_behind_begins_anew",
            "simulated/test_recovery_simulated.py::"
            "test_calm_weather_and_a_broker_twenty_five_times_slower_lose_nobody",
            "simulated/test_client_simulated.py::test_the_last_write_to_a_key_wins_in_order",
        ),
    ),
    32: Scenario(
        "a client repeats each write, dies half-way, or has the name of another one",
        "I2: once, in order; the older session of a name is deposed",
        (
            planned("every_message_comes_twice_and_writers_die"),
            "simulated/test_client_simulated.py::test_a_killed_load_goes_on_where_it_stopped",
            "simulated/test_client_simulated.py::test_a_new_session_deposes_the_older_one",
            "unit/test_sequencer.py::test_same_number_again_is_the_same_commit",
            "unit/test_client_session.py::test_everything_is_committed_once_in_order_whatever_is_lost",
            "virtual/test_client_virtual.py::test_a_client_killed_in_the_middle_of_a_load",
        ),
    ),
    33: Scenario(
        "malformed, huge, replayed messages, and from nobody who is known",
        "they are set aside with the reason, and the service goes on",
        (
            "simulated/test_hostile_simulated.py::test_bytes_that_are_no_message_are_set_aside",
            "simulated/test_hostile_simulated.py::test_lies_to_a_sequencer_are_refused",
            "unit/test_codec.py::test_fuzzed_messages_are_read_or_refused",
            "virtual/test_hostile_virtual.py::test_messages_as_large_as_the_broker_takes_virtual",
        ),
        "messages have checksums, and no signatures",
    ),
    34: Scenario(
        "ten thousand inboxes, half of them of nobody",
        "I6: queues of nobody go",
        (
            "simulated/test_hostile_simulated.py::test_readers_that_do_not_exist_are_forgotten",
            "contract/test_broker.py::test_replies_go_with_their_connection",
        ),
        "the number is not tried",
    ),
    35: Scenario(
        "the disk, the descriptors or the memory of a container run out",
        PROGRESS,
        (
            "virtual/test_faults_virtual.py::test_a_fault_under_load_virtual",
            "virtual/test_faults_virtual.py::test_faults_at_random_virtual",
            "virtual/test_broker_virtual.py::test_a_full_disk_holds_up_publishes_however_long_it_lasts",
            "unit/test_directory_store.py::test_a_full_disk_is_said_and_survived",
        ),
        "a container's limits are stood in for by those of its processes",
    ),
    36: Scenario(
        "a power cut: all are killed at once, the broker too",
        EXACT,
        (
            planned("all_are_killed_at_once_and_the_broker_is_replaced"),
            "virtual/test_faults_virtual.py::test_a_fault_under_load_virtual",
            "simulated/test_recall_simulated.py"
            "::test_programs_run_again_after_all_was_switched_off_unless_they_were_removed",
            "unit/test_directory_store.py::test_objects_are_synced_before_create_returns",
        ),
    ),
}


@pytest.mark.parametrize("number", range(1, 37))
def test_every_named_test_is_there(number: int) -> None:
    """Each scenario is a test by name, or says why it is none."""
    scenario = TABLE[number]
    assert scenario.tests or scenario.missing
    for named in scenario.tests:
        path, _, rest = named.partition("::")
        function, _, case = rest.partition(":")
        assert function in _functions(TEST / path), f"{path} has no {function}"
        assert not case or case in SCENARIOS, f"there is no scenario {case}"


def test_every_planned_scenario_is_in_the_table() -> None:
    """None is there for nothing."""
    named = {test.rpartition(":")[2] for scenario in TABLE.values() for test in scenario.tests}
    assert named.issuperset(SCENARIOS)


def _functions(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
