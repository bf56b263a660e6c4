@0xd5c1a0f1e93b7a42;
# What services, nodes and clients say to each other, and what is in the store.
# dist_zero_common/protocol/messages/ and stored.py have the same structs field by field; a test holds them together.
# README.md beside this file says how to change it.  Times are in microseconds since 1970-01-01 UTC; epochs,
# sessions and versions count from 1, places from 0. Ids of sessions and subscriptions are places in the log.
# Columns of numbers are little-endian bytes (Data), read in place.

# ---- shared pieces ------------------------------------------------------------------------------------

struct ShardMap {
  # Which node owns which hashes. lasts[i] is the last hash (inclusive, 64 bits) of shard i,
  # ascending; the last one is 2⁶⁴ − 1. nodes[i] is the name of the node that owns shard i. Versions
  # count from 1.

  version @0 :UInt32;
  lasts @1 :List(UInt64);
  nodes @2 :List(Text);
}

struct ColumnBlob {
  # One column. validity: a byte per row, 1 where there is a value, empty if all have one. values:
  # bool a byte per row; int, datetime, decimal, enum 8 bytes; float 8 bytes; str and bytes: the
  # bytes, with offsets of row_count + 1 unsigned 8-byte positions. Little-endian.

  validity @0 :Data;
  offsets @1 :Data;
  values @2 :Data;
}

struct BatchBlob {
  # Rows in columns. weights: 8 bytes per row, empty if all are +1.

  rowCount @0 :UInt32;
  weights @1 :Data;
  columns @2 :List(ColumnBlob);
}

enum WriteKind {
  # What a write does: insert or replace; change some columns of; remove; add to a dataset without
  # key.

  put @0;
  update @1;
  delete @2;
  append @3;
}

struct WritesBlob {
  # Writes of one kind to one dataset. columns: which columns of the dataset the batch holds, in its
  # order. Inside a client's payload transactions and rows are empty: rows count through the payload
  # in order. In a hand-out they are 8 bytes per row: the transaction's place in the epoch, the
  # row's place in the transaction.

  dataset @0 :UInt32;
  kind @1 :WriteKind;
  columns @2 :List(UInt32);
  batch @3 :BatchBlob;
  transactions @4 :Data;
  rows @5 :Data;
}

struct Payload {
  # The writes of one transaction, in order.

  writes @0 :List(WritesBlob);
}

# ---- clients and the sequencer ------------------------------------------------------------------------

struct OpenSession {
  # Start a session under a client name; deposes the older session of that name.

  request @0 :UInt64;
  client @1 :Text;
  replyTo @2 :Text;
}

struct SessionOpened {
  # committed: the last number that sessions of this client name have committed, 0 for none.

  request @0 :UInt64;
  session @1 :UInt64;
  committed @2 :UInt64;
  epoch @3 :UInt64;
}

struct Transaction {
  # Transaction number (1, 2, 3 …) of a session; payload is an encoded Payload.

  session @0 :UInt64;
  number @1 :UInt64;
  payload @2 :Data;
  replyTo @3 :Text;
}

struct Committed {
  # The log has this transaction, in this epoch.

  session @0 :UInt64;
  number @1 :UInt64;
  epoch @2 :UInt64;
}

struct ResendFrom {
  # The sequencer lacks this number of the session; please send it and what follows again.

  session @0 :UInt64;
  number @1 :UInt64;
}

struct SessionUnknown {
  # No such session: expired, deposed, or never opened.

  session @0 :UInt64;
  reason @1 :Text;
}

struct TransactionRefused {
  # The transaction breaks the row types or a limit; nothing of it was recorded.

  session @0 :UInt64;
  number @1 :UInt64;
  reason @2 :Text;
}

struct Wait {
  # The system is behind; the transaction was not kept. Send it again after this time.

  session @0 :UInt64;
  number @1 :UInt64;
  retryAfterMs @2 :UInt32;
}

struct SnapshotRequest {
  # Rows of these views at one epoch that includes every write committed before.

  request @0 :UInt64;
  views @1 :List(Text);
  replyTo @2 :Text;
}

struct Subscribe {
  # Every change of these views from some epoch on. after 0: beginning with a snapshot; else the
  # last epoch that the asker has seen, and nodes that have forgotten what came behind it answer
  # ChangesGone.

  request @0 :UInt64;
  views @1 :List(Text);
  after @2 :UInt64;
  replyTo @3 :Text;
}

struct Unsubscribe {
  # Stop sending the changes of this subscription.

  subscription @0 :UInt64;
}

struct AwaitEpoch {
  # Tell me when every node has finished this epoch.

  request @0 :UInt64;
  epoch @1 :UInt64;
  replyTo @2 :Text;
}

struct EpochFinished {
  # Every node has finished epoch, which is at least the one asked for.

  request @0 :UInt64;
  epoch @1 :UInt64;
}

struct RequestRefused {
  # The question cannot be answered, and asking again will not help.

  request @0 :UInt64;
  reason @1 :Text;
}

# ---- clients and nodes --------------------------------------------------------------------------------

struct Get {
  # One row of a keyed view, from the node that owns the key, once it has finished at_least. key:
  # one row.

  request @0 :UInt64;
  program @1 :Text;
  mapVersion @2 :UInt32;
  shard @3 :UInt32;
  view @4 :UInt32;
  key @5 :BatchBlob;
  atLeast @6 :UInt64;
  replyTo @7 :Text;
}

struct Got {
  # The row (one or none) as of epoch.

  request @0 :UInt64;
  epoch @1 :UInt64;
  row @2 :BatchBlob;
}

struct ViewRows {
  # Rows or changes of view number view.

  view @0 :UInt32;
  batch @1 :BatchBlob;
}

struct ErrorEntry {
  # Rows that one operator leaves out of view number view; see dist_zero.executor.ErrorCount.

  view @0 :UInt32;
  operator @1 :UInt32;
  label @2 :Text;
  reason @3 :Text;
  example @4 :Text;
  count @5 :UInt64;
}

struct SnapshotAnswer {
  # One node's part of a snapshot as of epoch, in parts messages numbered from 0. shards nodes
  # answer. subscription is 0 for a snapshot request. errors and missed (by dataset number) come
  # with part 0. shown says by which views the numbers of views are.

  request @0 :UInt64;
  subscription @1 :UInt64;
  epoch @2 :UInt64;
  mapVersion @3 :UInt32;
  shard @4 :UInt32;
  shards @5 :UInt32;
  part @6 :UInt32;
  parts @7 :UInt32;
  views @8 :List(ViewRows);
  errors @9 :List(ErrorEntry);
  missed @10 :List(UInt64);
  shown @11 :UInt64;
}

struct Changes {
  # What one node's part of the subscribed views changed by in epoch; sent for every epoch, also
  # when empty. For shown see SnapshotAnswer.

  request @0 :UInt64;
  subscription @1 :UInt64;
  epoch @2 :UInt64;
  mapVersion @3 :UInt32;
  shard @4 :UInt32;
  shards @5 :UInt32;
  part @6 :UInt32;
  parts @7 :UInt32;
  views @8 :List(ViewRows);
  shown @9 :UInt64;
}

struct AskChanges {
  # The changes of epoch have not come: send them again.

  program @0 :Text;
  mapVersion @1 :UInt32;
  shard @2 :UInt32;
  subscription @3 :UInt64;
  epoch @4 :UInt64;
  replyTo @5 :Text;
}

struct ChangesGone {
  # The node no longer has the changes behind epoch (or does not know the subscription): take a new
  # snapshot.

  request @0 :UInt64;
  subscription @1 :UInt64;
  epoch @2 :UInt64;
}

struct Elsewhere {
  # To a reader: the nodes of this program are being placed anew, or are elsewhere by now. Ask the scheduler.

  program @0 :Text;
}

# ---- the sequencer and nodes --------------------------------------------------------------------------

struct SnapshotWanted {
  # A snapshot request as it stands in a record; views by number.

  request @0 :UInt64;
  views @1 :List(UInt32);
  replyTo @2 :Text;
}

struct SubscriptionWanted {
  # A subscription as it stands in a record; its id is its place in the log.

  subscription @0 :UInt64;
  request @1 :UInt64;
  views @2 :List(UInt32);
  after @3 :UInt64;
  replyTo @4 :Text;
}

struct NodeWrites {
  # The writes of an epoch whose keys shard target owns.

  target @0 :UInt32;
  writes @1 :List(WritesBlob);
}

struct HandOut {
  # Rows of stage 1 of an epoch for all targets of one runner; targets that are not in writes get
  # none. An epoch that is handed out again was in the log when the sequencer started: readers may
  # have had it before, and hear of it only if they ask. base: the newest one; nobody will ask for
  # rows of epochs up to there again. everything: what is saved at this epoch is all of the state,
  # not just what changed. forgets: transactions are void from here on, or there are other views, so what
  # readers were told of epochs before is not so any more, and they begin again. filled: of a program that
  # takes the place of another, so many slices are filled from here on, and filled_before before.

  program @0 :Text;
  generation @1 :UInt64;
  epoch @2 :UInt64;
  mapVersion @3 :UInt32;
  save @4 :Bool;
  timeUs @5 :Int64;
  targets @6 :List(UInt32);
  writes @7 :List(NodeWrites);
  snapshots @8 :List(SnapshotWanted);
  subscriptions @9 :List(SubscriptionWanted);
  unsubscriptions @10 :List(UInt64);
  again @11 :Bool;
  base @12 :UInt64;
  everything @13 :Bool;
  forgets @14 :Bool;
  filledBefore @15 :UInt32;
  filled @16 :UInt32;
}

struct ExchangeBatch {
  # Rows that operator number exchange sends.

  exchange @0 :UInt32;
  batch @1 :BatchBlob;
}

struct StageRows {
  # Rows of a stage above 1, from one node to another, in parts messages numbered from 0.

  program @0 :Text;
  generation @1 :UInt64;
  epoch @2 :UInt64;
  stage @3 :UInt32;
  mapVersion @4 :UInt32;
  sender @5 :UInt32;
  target @6 :UInt32;
  part @7 :UInt32;
  parts @8 :UInt32;
  batches @9 :List(ExchangeBatch);
}

struct EmptyRows {
  # Empty Rows of one epoch and stage: bit (sender × n + target) of bits (least significant first),
  # where n is the number of shards of the map.

  program @0 :Text;
  generation @1 :UInt64;
  epoch @2 :UInt64;
  stage @3 :UInt32;
  mapVersion @4 :UInt32;
  bits @5 :Data;
}

struct AskRows {
  # Shard asker has not got the Rows of this stage and epoch, or not all of their parts: send them
  # again. Stage 1 is asked of the sequencer, a later one of shard sender.

  program @0 :Text;
  generation @1 :UInt64;
  mapVersion @2 :UInt32;
  epoch @3 :UInt64;
  stage @4 :UInt32;
  sender @5 :UInt32;
  asker @6 :UInt32;
}

struct AskDone {
  # How far are the nodes of this program that you host? Epochs up to handed_out have been handed out.

  program @0 :Text;
  generation @1 :UInt64;
  mapVersion @2 :UInt32;
  handedOut @3 :UInt64;
}

struct Done {
  # The node has finished every epoch up to this one.

  program @0 :Text;
  generation @1 :UInt64;
  mapVersion @2 :UInt32;
  shard @3 :UInt32;
  epoch @4 :UInt64;
}

struct Saved {
  # The node's state as of this epoch is in the store. changed_bytes: what was written for it;
  # state_bytes: what its state took when it was last written as a whole, 0 if it never was here.

  program @0 :Text;
  generation @1 :UInt64;
  mapVersion @2 :UInt32;
  shard @3 :UInt32;
  epoch @4 :UInt64;
  changedBytes @5 :UInt64;
  stateBytes @6 :UInt64;
}

struct Begun {
  # The node has begun, at this epoch, which is a base: whoever has rows for it of later ones sends
  # them (again).

  program @0 :Text;
  generation @1 :UInt64;
  mapVersion @2 :UInt32;
  shard @3 :UInt32;
  epoch @4 :UInt64;
}

struct RowsGone {
  # What shard asker asked for is of an epoch that the base has passed, so nobody keeps it: begin
  # again at the newest base.

  program @0 :Text;
  generation @1 :UInt64;
  mapVersion @2 :UInt32;
  epoch @3 :UInt64;
  asker @4 :UInt32;
}

struct ReaderLost {
  # Nobody reads this inbox of a client's any more: its subscriptions end.

  program @0 :Text;
  generation @1 :UInt64;
  inbox @2 :Text;
}

# ---- the control plane --------------------------------------------------------------------------------

struct RunnerStatus {
  # A runner as its machine's agent sees it.

  runner @0 :Text;
  incarnation @1 :UInt64;
  alive @2 :Bool;
}

struct MachineReport {
  # An agent's heartbeat. inbox is where it listens; labels are name=value. leaves: it is the last one.

  machine @0 :Text;
  incarnation @1 :UInt64;
  inbox @2 :Text;
  cores @3 :UInt32;
  memoryBytes @4 :UInt64;
  labels @5 :List(Text);
  runners @6 :List(RunnerStatus);
  leaves @7 :Bool;
}

struct StartRunner {
  # Start this incarnation of a runner unless it, or a later one, runs. Meant for this incarnation of
  # the agent alone.

  scheduler @0 :UInt64;
  runner @1 :Text;
  incarnation @2 :UInt64;
  agent @3 :UInt64;
}

struct StopRunner {
  # Stop this incarnation of a runner, or an earlier one.

  scheduler @0 :UInt64;
  runner @1 :Text;
  incarnation @2 :UInt64;
}

struct NodeStatus {
  # A node as its runner sees it; halted: empty, or why it stands still. rewind: it would go on in a
  # new generation. stage: the first one that the epoch behind finished_epoch has still to run, 0 while
  # the node has not begun; waits_for: whose rows it lacks for that, a shard + 1, or 0 for the
  # sequencer. saving: the oldest epoch whose state is not in the store yet, 0 for none. rows: how many
  # its steps have taken in since it is here, busyUs: for how long they were at it, reads: how often it
  # was asked for rows or changes. stateBytes: how much its newest saves hold. unsavedMs: since when it
  # has finished something that no save covers, 0 for nothing.

  program @0 :Text;
  generation @1 :UInt64;
  mapVersion @2 :UInt32;
  shard @3 :UInt32;
  incarnation @4 :UInt64;
  finishedEpoch @5 :UInt64;
  halted @6 :Text;
  rewind @7 :Bool;
  stage @8 :UInt32;
  waitsFor @9 :List(UInt32);
  saving @10 :UInt64;
  rows @11 :UInt64;
  busyUs @12 :UInt64;
  reads @13 :UInt64;
  stateBytes @14 :UInt64;
  unsavedMs @15 :UInt64;
}

struct SequencerStatus {
  # A sequencer as its runner sees it: the newest epoch in the log, the newest that every node has
  # finished, and the newest base. rewind: it would go on in a new generation. proposing: the epoch
  # whose record is being created, 0 for none. ends: the epoch behind which it hands out nothing, 0 for
  # none. slices: of a program that takes the place of another, so many are to be filled, and filled are;
  # that all are is said when a base has them. needs: the program that could begin at the base that there
  # is, where the one that was to cannot. busy_us: for how long it was at work, without what it made the
  # nodes of its runner do. heat: the hashes of some keys that were written lately, ascending: where they
  # lie close, the load is. rows: how many of its own epochs it has handed out; unsavedMs: since when
  # there are epochs that no base covers, 0 for none.

  program @0 :Text;
  incarnation @1 :UInt64;
  generation @2 :UInt64;
  nodesInbox @3 :Text;
  epoch @4 :UInt64;
  finishedEpoch @5 :UInt64;
  halted @6 :Text;
  rewind @7 :Bool;
  base @8 :UInt64;
  proposing @9 :UInt64;
  ends @10 :UInt64;
  slices @11 :UInt32;
  filled @12 :UInt32;
  needs @13 :Data;
  busyUs @14 :UInt64;
  heat @15 :List(UInt64);
  rows @16 :UInt64;
  unsavedMs @17 :UInt64;
}

struct PreparedStatus {
  # A node that is prepared: for the PrepareNodes of this version, as of the base of this epoch, 0 before
  # there is anything. ready: it has caught up with the newest base.

  program @0 :Text;
  version @1 :UInt64;
  shard @2 :UInt32;
  epoch @3 :UInt64;
  ready @4 :Bool;
}

struct RunnerReport {
  # A runner's heartbeat. cpuUs: how much processor time its process has had, memoryUsedBytes: how much
  # memory that has now; 0 where nobody measures it.

  runner @0 :Text;
  incarnation @1 :UInt64;
  machine @2 :Text;
  inbox @3 :Text;
  nodes @4 :List(NodeStatus);
  sequencers @5 :List(SequencerStatus);
  prepared @6 :List(PreparedStatus);
  cpuUs @7 :UInt64;
  memoryUsedBytes @8 :UInt64;
}

struct Placement {
  # Where the parts of a program listen. inboxes[i] belongs to shard i of the map. Higher versions
  # replace.

  scheduler @0 :UInt64;
  program @1 :Text;
  version @2 :UInt64;
  generation @3 :UInt64;
  shardMap @4 :ShardMap;
  inboxes @5 :List(Text);
  clientsInbox @6 :Text;
  nodesInbox @7 :Text;
}

struct HostNode {
  # Run this node, unless this incarnation of it, or a later one, runs. graph is an encoded
  # GraphBlob.

  scheduler @0 :UInt64;
  program @1 :Text;
  generation @2 :UInt64;
  shardMap @3 :ShardMap;
  shard @4 :UInt32;
  incarnation @5 :UInt64;
  graph @6 :Data;
}

struct HostSequencer {
  # Run the program's sequencer, unless this incarnation of it, or a later one, runs. Its first record
  # opens generation, unless the log is there already, and says that these transactions are void.

  scheduler @0 :UInt64;
  program @1 :Text;
  incarnation @2 :UInt64;
  shardMap @3 :ShardMap;
  inboxes @4 :List(Text);
  graph @5 :Data;
  generation @6 :UInt64;
  voids @7 :List(TransactionPlace);
}

struct PrepareNodes {
  # Load beforehand what these shards of this map will begin with, from the bases of generation, which
  # runs now, and follow them; and prepare no other nodes of the program. A higher version replaces; it
  # is an incarnation. No shards: forget what was prepared up to this version.

  scheduler @0 :UInt64;
  program @1 :Text;
  version @2 :UInt64;
  generation @3 :UInt64;
  shardMap @4 :ShardMap;
  shards @5 :List(UInt32);
  graph @6 :Data;
}

struct EndGeneration {
  # Another generation is about to begin: let this incarnation of the program's sequencer save once more
  # and hand out nothing behind that. If none begins, it goes on after a while.

  scheduler @0 :UInt64;
  program @1 :Text;
  incarnation @2 :UInt64;
}

struct DropProgram {
  # Stop all parts of a program up to this incarnation; what is in the store stays.

  scheduler @0 :UInt64;
  program @1 :Text;
  incarnation @2 :UInt64;
}

# ---- clients and the scheduler ------------------------------------------------------------------------

struct ChangeWanted {
  # That a program of another content may be changed. only_tells: what it would keep, fill and drop, and
  # nothing is done. drops: datasets that are left out are dropped, with their rows. begins_empty: names of
  # views that cannot be filled, and shall begin empty.

  onlyTells @0 :Bool;
  drops @1 :Bool;
  beginsEmpty @2 :List(Text);
}

struct SubmitProgram {
  # Run this program on nodes nodes. Submitting what already runs changes nothing; another one of its
  # name is refused, unless change is there.

  request @0 :UInt64;
  graph @1 :Data;
  nodes @2 :UInt32;
  replyTo @3 :Text;
  change @4 :ChangeWanted;
}

enum ProgramState {
  # How far a program is.

  starting @0;
  running @1;
  halted @2;
  asleep @3;
}

struct Locate {
  # Where is this program?

  request @0 :UInt64;
  program @1 :Text;
  replyTo @2 :Text;
}

enum Fate {
  # What becomes of a dataset or view when its program is changed.

  kept @0;
  filled @1;
  empty @2;
  dropped @3;
}

struct ChangeLine {
  # What becomes of one dataset or view (what says which), and why.

  what @0 :Text;
  name @1 :Text;
  fate @2 :Fate;
  reason @3 :Text;
}

struct ProgramChange {
  # A change of a program: what it does, and how far it is. slices: so many are to be filled, and filled
  # are.

  lines @0 :List(ChangeLine);
  slices @1 :UInt32;
  filled @2 :UInt32;
}

struct Located {
  # The answer to SubmitProgram and Locate. placement is None while the program is starting; note
  # tells a person what differs from what was asked for, or why the program stands still. change: what
  # was asked for is a change, which is not through.

  request @0 :UInt64;
  program @1 :Text;
  state @2 :ProgramState;
  graph @3 :Data;
  placement @4 :Placement;
  note @5 :Text;
  change @6 :ProgramChange;
}

struct ScaleProgram {
  # Run this program on so many nodes from now on; asking for what is so already changes nothing.

  request @0 :UInt64;
  program @1 :Text;
  nodes @2 :UInt32;
  replyTo @3 :Text;
  again @4 :Bool;  # the sender waits for what it has asked for: no new wish, if somebody has had another one since
}

struct NodeLimits {
  # Between how many nodes a program grows and shrinks by itself; after idleSeconds without input it is
  # put to sleep, 0: never.

  nodesMin @0 :UInt32;
  nodesMax @1 :UInt32;
  idleSeconds @2 :UInt32;
}

struct MachineLimits {
  # How many machines there are at least and at most.

  machinesMin @0 :UInt32;
  machinesMax @1 :UInt32;
}

struct AutoscaleProgram {
  # Let this program grow and shrink by itself, and if machines are given, let the number of machines follow
  # the load within these limits from now on. ScaleProgram ends the one, and leaves the other.

  request @0 :UInt64;
  program @1 :Text;
  nodes @2 :NodeLimits;
  machines @3 :MachineLimits;
  replyTo @4 :Text;
}

struct DrainMachine {
  # Let this machine run nothing any more, or let it run things again. Answered by SystemStatus.

  request @0 :UInt64;
  machine @1 :Text;
  drained @2 :Bool;
  replyTo @3 :Text;
  again @4 :Bool;  # as in ScaleProgram
}

struct RemoveProgram {
  # Stop the program; what is in the store stays.

  request @0 :UInt64;
  program @1 :Text;
  replyTo @2 :Text;
}

struct ProgramRemoved {
  # The program no longer runs.

  request @0 :UInt64;
  program @1 :Text;
}

struct VoidTransaction {
  # Take this transaction out: the program's state shall be as if it had said nothing.

  request @0 :UInt64;
  program @1 :Text;
  place @2 :TransactionPlace;
  replyTo @3 :Text;
}

struct TransactionVoided {
  # The log says that the transaction is void.

  request @0 :UInt64;
  program @1 :Text;
  place @2 :TransactionPlace;
}

struct AskStatus {
  # What is there, and how far is it?

  request @0 :UInt64;
  replyTo @1 :Text;
}

struct MachineStatus {
  # A machine as the scheduler knows it. silent_ms: how long ago its agent was last heard of; ready:
  # whether nodes may be placed there now. inbox and runner_inbox are where agent and runner listen;
  # the latter is empty while no runner was started. cpuUs and memoryUsedBytes: what its runner's process
  # has taken. reportedMs: when the runner said so, and all that is said of its nodes, by a clock of this
  # scheduler's.

  machine @0 :Text;
  cores @1 :UInt32;
  memoryBytes @2 :UInt64;
  labels @3 :List(Text);
  silentMs @4 :UInt64;
  ready @5 :Bool;
  inbox @6 :Text;
  runner @7 :Text;
  runnerIncarnation @8 :UInt64;
  runnerInbox @9 :Text;
  note @10 :Text;
  cpuUs @11 :UInt64;
  memoryUsedBytes @12 :UInt64;
  reportedMs @13 :UInt64;
}

struct NodePlace {
  # Where a shard of a program runs, and the newest epoch that it has finished. For the numbers see
  # NodeStatus.

  shard @0 :UInt32;
  node @1 :Text;
  machine @2 :Text;
  incarnation @3 :UInt64;
  finishedEpoch @4 :UInt64;
  note @5 :Text;
  rows @6 :UInt64;
  busyUs @7 :UInt64;
  stateBytes @8 :UInt64;
  unsavedMs @9 :UInt64;
}

struct ProgramStatus {
  # A program as the scheduler knows it. epoch is the newest of its log, finished_epoch the newest
  # that all nodes have finished; sequencer_machine and the inboxes are empty while it is starting. rows
  # and unsavedMs are the sequencer's. How often since this scheduler leads: parts were placed again
  # because they were lost (recoveries), or moved (moves), nodes were divided (splits) or joined (merges),
  # and the program went back to a base (rewinds).

  program @0 :Text;
  state @1 :ProgramState;
  note @2 :Text;
  generation @3 :UInt64;
  nodes @4 :List(NodePlace);
  sequencerMachine @5 :Text;
  sequencerIncarnation @6 :UInt64;
  epoch @7 :UInt64;
  finishedEpoch @8 :UInt64;
  clientsInbox @9 :Text;
  nodesInbox @10 :Text;
  growth @11 :Text;
  base @12 :UInt64;
  rows @13 :UInt64;
  unsavedMs @14 :UInt64;
  recoveries @15 :UInt64;
  moves @16 :UInt64;
  splits @17 :UInt64;
  merges @18 :UInt64;
  rewinds @19 :UInt64;
}

struct SystemStatus {
  # The answer to AskStatus: machines and programs by name. scheduler is the number of the one that leads,
  # standbys the names of those that would take over. growth, here as in ProgramStatus: within which limits
  # it is automatic, what was decided last and why; empty where it is not automatic. services: the hosts
  # that there shall be; hosts: what is to be said of single ones. store: where the scheduler finds it.

  request @0 :UInt64;
  scheduler @1 :UInt64;
  machines @2 :List(MachineStatus);
  programs @3 :List(ProgramStatus);
  standbys @4 :List(Text);
  growth @5 :Text;
  services @6 :List(ServiceStatus);
  hosts @7 :List(HostNote);
  store @8 :Text;
}

struct ServiceStatus {
  # A service whose number of hosts the scheduler sees to: how many there shall be, how many of those are
  # ready, and how many more there are, which are to be given back.

  service @0 :Text;
  wanted @1 :UInt32;
  ready @2 :UInt32;
  leaving @3 :UInt32;
}

struct HostNote {
  # What is to be said of a host that is not simply there; wrong: somebody has to look after it. host is
  # empty where it is about all of them.

  host @0 :Text;
  text @1 :Text;
  wrong @2 :Bool;
}

struct ServiceCount {
  # So many hosts with this service.

  service @0 :Text;
  count @1 :UInt32;
}

struct ScaleServices {
  # Let there be so many hosts with these services from now on, in place of any limits within which their
  # number was automatic. Answered by SystemStatus. For again see ScaleProgram.

  request @0 :UInt64;
  services @1 :List(ServiceCount);
  replyTo @2 :Text;
  again @3 :Bool;
}

struct Message {
  # One message of any kind.

  union {
    openSession @0 :OpenSession;
    sessionOpened @1 :SessionOpened;
    transaction @2 :Transaction;
    committed @3 :Committed;
    resendFrom @4 :ResendFrom;
    sessionUnknown @5 :SessionUnknown;
    transactionRefused @6 :TransactionRefused;
    wait @7 :Wait;
    snapshotRequest @8 :SnapshotRequest;
    subscribe @9 :Subscribe;
    unsubscribe @10 :Unsubscribe;
    awaitEpoch @11 :AwaitEpoch;
    epochFinished @12 :EpochFinished;
    requestRefused @13 :RequestRefused;
    get @14 :Get;
    got @15 :Got;
    snapshotAnswer @16 :SnapshotAnswer;
    changes @17 :Changes;
    askChanges @18 :AskChanges;
    changesGone @19 :ChangesGone;
    handOut @20 :HandOut;
    stageRows @21 :StageRows;
    emptyRows @22 :EmptyRows;
    done @23 :Done;
    machineReport @24 :MachineReport;
    startRunner @25 :StartRunner;
    stopRunner @26 :StopRunner;
    runnerReport @27 :RunnerReport;
    placement @28 :Placement;
    hostNode @29 :HostNode;
    hostSequencer @30 :HostSequencer;
    dropProgram @31 :DropProgram;
    submitProgram @32 :SubmitProgram;
    locate @33 :Locate;
    located @34 :Located;
    removeProgram @35 :RemoveProgram;
    programRemoved @36 :ProgramRemoved;
    askStatus @37 :AskStatus;
    systemStatus @38 :SystemStatus;
    askRows @39 :AskRows;
    askDone @40 :AskDone;
    saved @41 :Saved;
    begun @42 :Begun;
    rowsGone @43 :RowsGone;
    readerLost @44 :ReaderLost;
    scaleProgram @45 :ScaleProgram;
    drainMachine @46 :DrainMachine;
    standsBy @47 :StandsBy;
    leads @48 :Leads;
    voidTransaction @49 :VoidTransaction;
    transactionVoided @50 :TransactionVoided;
    autoscaleProgram @51 :AutoscaleProgram;
    prepareNodes @52 :PrepareNodes;
    endGeneration @53 :EndGeneration;
    elsewhere @54 :Elsewhere;
    scaleServices @55 :ScaleServices;
  }
}

struct Envelope {
  # All that is ready for one inbox. sender names the process, for logs and for what is set aside.

  system @0 :Text;
  sender @1 :Text;
  messages @2 :List(Message);
}

# ---- among schedulers ---------------------------------------------------------------------------------

struct StandsBy {
  # A scheduler that does not lead, to the one that does: it listens at replyTo, and wants to hear that
  # it is led. name is unique to its process. host: the spawner's host on which it runs, or empty.

  name @0 :Text;
  replyTo @1 :Text;
  host @2 :Text;
}

struct Leads {
  # The answer to StandsBy: scheduler is the number of the one that leads.

  scheduler @0 :UInt64;
}

# ---- objects in the store -----------------------------------------------------------------------------

struct RecordedOpen {
  # A session's beginning; its id is its place in the log (session_id).

  client @0 :Text;
  request @1 :UInt64;
  replyTo @2 :Text;
}

struct RecordedTransaction {
  # A committed transaction.

  session @0 :UInt64;
  number @1 :UInt64;
  payload @2 :Data;
}

struct LogRecord {
  # One epoch. incarnation is the sequencer's that wrote it; time_us is UTC and never goes back.
  # expired are the sessions that end here because they were idle for too long, measured between
  # record times. save: every node saves its state as of this epoch, with everything all of it, else
  # what changed since the last time. begins: this record opens its generation, at that base, and by
  # shard_map, which all epochs behind the base go by. voids: these transactions say nothing from now
  # on; they are behind that base. ends: when this was written, nothing behind that epoch was handed out
  # in its generation, 0 where nothing is said about that. graph: the program that the generation runs
  # which this record opens; forgets: it shows other views than the one before, and readers begin again.
  # filled: of a program that takes the place of another, so many slices are filled from here on.

  epoch @0 :UInt64;
  timeUs @1 :Int64;
  generation @2 :UInt64;
  incarnation @3 :UInt64;
  mapVersion @4 :UInt32;
  save @5 :Bool;
  expired @6 :List(UInt64);
  opens @7 :List(RecordedOpen);
  transactions @8 :List(RecordedTransaction);
  snapshots @9 :List(SnapshotWanted);
  subscriptions @10 :List(SubscriptionWanted);
  unsubscriptions @11 :List(UInt64);
  everything @12 :Bool;
  begins @13 :BaseId;
  shardMap @14 :ShardMap;
  voids @15 :List(TransactionPlace);
  ends @16 :UInt64;
  graph @17 :Data;
  forgets @18 :Bool;
  filled @19 :UInt32;
}

struct TransactionPlace {
  # Which transaction of a log: its record, and its place there.

  epoch @0 :UInt64;
  index @1 :UInt32;
}

struct BaseId {
  # Which base: of its generation, at its epoch.

  generation @0 :UInt64;
  epoch @1 :UInt64;
}

struct BaseSession {
  # A session as of a base. request, reply_to and opened_at: who asked for it, and the number that was
  # committed then. numbers, epochs and hashes (16 bytes each): of its newest transactions.

  session @0 :UInt64;
  client @1 :Text;
  committed @2 :UInt64;
  usedUs @3 :Int64;
  request @4 :UInt64;
  replyTo @5 :Text;
  openedAt @6 :UInt64;
  numbers @7 :List(UInt64);
  epochs @8 :List(UInt64);
  hashes @9 :Data;
}

struct CheckpointId {
  # The saved state of a node: of which node, as of which epoch, and in which generation it was written.

  node @0 :Text;
  epoch @1 :UInt64;
  generation @2 :UInt64;
}

struct Base {
  # A state to begin at, and what a sequencer has to know of the log up to there: base 0 holds the
  # program and its first shard map, and no state. A base belongs to a generation; the first one of a
  # generation is a copy of the one that its opening record names. checkpoints: by shard, none at
  # epoch 0. saves: how many of them in a row, this one included, hold only what changed; by shard,
  # how much those hold, and how much the one before them, which holds everything. saved_map: by
  # which map the checkpoints were saved, where that is another one than shard_map; saved_fingerprint: by
  # which plan, where that is not the program's own. filled: of a program that takes the place of another,
  # so many slices are filled; what records of generations before filled_since say of that is of other
  # changes.

  epoch @0 :UInt64;
  generation @1 :UInt64;
  timeUs @2 :Int64;
  shardMap @3 :ShardMap;
  graph @4 :Data;
  checkpoints @5 :List(CheckpointId);
  sessions @6 :List(BaseSession);
  subscriptions @7 :List(SubscriptionWanted);
  saves @8 :UInt32;
  changedBytes @9 :List(UInt64);
  stateBytes @10 :List(UInt64);
  savedMap @11 :ShardMap;
  savedFingerprint @12 :Text;
  filled @13 :UInt32;
  filledSince @14 :UInt64;
}

struct TableBlob {
  # Rows of one table of a node's state, or what changed in it: rows that are there now, rows that
  # are there no more. A table may come in several of these, one behind the other.

  name @0 :Text;
  puts @1 :BatchBlob;
  deletes @2 :BatchBlob;
}

struct CheckpointPart {
  # A piece of a checkpoint that is too large for one object; index counts from 0.

  program @0 :Text;
  node @1 :Text;
  generation @2 :UInt64;
  epoch @3 :UInt64;
  index @4 :UInt32;
  tables @5 :List(TableBlob);
}

struct CheckpointPiece {
  # The object that holds part number i: its length and the XXH64 of its bytes.

  sizeBytes @0 :UInt64;
  checksum @1 :UInt64;
}

struct CheckpointManifest {
  # The state of a node at an epoch; the checkpoint is there when this object is. whole: all of it;
  # otherwise what changed since the node's checkpoint at previous, which may be of an earlier
  # generation. links: how many checkpoints are read to make the state, this one included. The
  # content is in tables, or in the parts that pieces names. size_bytes and entries are of the
  # content.

  program @0 :Text;
  node @1 :Text;
  generation @2 :UInt64;
  epoch @3 :UInt64;
  fingerprint @4 :Text;
  whole @5 :Bool;
  previousGeneration @6 :UInt64;
  previousEpoch @7 :UInt64;
  links @8 :UInt32;
  sizeBytes @9 :UInt64;
  entries @10 :UInt64;
  tables @11 :List(TableBlob);
  pieces @12 :List(CheckpointPiece);
}

struct RecordedPart {
  # Where a node or sequencer of a program is to run, and its own incarnation there.

  machine @0 :Text;
  runner @1 :Text;
  runnerIncarnation @2 :UInt64;
  incarnation @3 :UInt64;
}

struct RecordedProgram {
  # What schedulers have decided on a program. wanted: it shall run, where nodes (by shard), sequencer and
  # placement say, which are empty and None before it was placed. Else it is being removed, and nodes are
  # the parts that may still run. In the placement, scheduler is zero. limits: it grows and shrinks by
  # itself. asleep: nothing of it shall run until somebody wants something of it, and nodes are the parts
  # that may still run. tried: splits that are still to show that they help, or have not helped. graph: the
  # program that the placement's generation runs; nothing: as the base has it. wishedMap and wishedGraph: as
  # the next generation is to run it; nothing: as the placement has it, or without one the base.

  program @0 :Text;
  wanted @1 :Bool;
  nodes @2 :List(RecordedPart);
  sequencer @3 :RecordedPart;
  placement @4 :Placement;
  limits @5 :NodeLimits;
  asleep @6 :Bool;
  tried @7 :List(RecordedSplit);
  graph @8 :Data;
  wishedMap @9 :ShardMap;
  wishedGraph @10 :Data;
}

struct RecordedSplit {
  # The interval of a node that was divided, and how loaded it was then, in thousandths of what a node may
  # be.

  first @0 :UInt64;
  last @1 :UInt64;
  loadMilli @2 :UInt64;
}

struct RecordedMachines {
  # What schedulers have decided on machines. drained: they shall run nothing any more, because somebody
  # said so; leaving: because they are to be given back. limits: their number is automatic. wanted: what it
  # is by now, or what somebody has asked for; 0 where neither is so. schedulers: how many hosts with a
  # scheduler somebody has asked for, or 0.

  drained @0 :List(Text);
  leaving @1 :List(Text);
  limits @2 :MachineLimits;
  wanted @3 :UInt32;
  schedulers @4 :UInt32;
}

struct SchedulerRecord {
  # One record of the schedulers' log. scheduler is the number of the one that wrote it: that of the record
  # with which it began to lead. complete: programs are all that there are; else those that have changed,
  # and removed the names of those that are gone. machines is None where nothing of that has changed.

  number @0 :UInt64;
  scheduler @1 :UInt64;
  name @2 :Text;
  complete @3 :Bool;
  programs @4 :List(RecordedProgram);
  removed @5 :List(Text);
  machines @6 :RecordedMachines;
}
