@0xd15724a9c3e50f02;
# A program on the wire. dist_zero_common/protocol/program.py has the same structs field by field; README.md
# beside this file says how to change it. A union's members are named after its structs.
#
# Types, scalars and relations are lists of the graph; numbers in fields of these meanings are places in them,
# counted from 0, and what is referred to stands in front. Append only.

enum TypeKind {
  bool @0;
  int @1;
  float @2;
  str @3;
  bytes @4;
  datetime @5;
  decimal @6;
  enum @7;
}

enum JoinKind {
  inner @0;
  left @1;
  right @2;
  outer @3;
  semi @4;
  anti @5;
}

enum AggregateKind {
  count @0;
  sum @1;
  mean @2;
  min @3;
  max @4;
}

struct TypeBlob {
  # scale: digits behind the point of a decimal, else 0. members: of an enum, in order, else empty.

  kind @0 :TypeKind;
  nullable @1 :Bool;
  scale @2 :UInt8;
  members @3 :List(Text);
}

# ---- scalars ------------------------------------------------------------------------------------------

struct ColumnRefBlob {
  # The input row's column at index.

  index @0 :UInt32;
  type @1 :UInt32;
}

struct LiteralBlob {
  # A constant; the type says which field holds it. integer: bool (0 or 1), int, datetime (microseconds since
  # 1970-01-01 UTC), decimal (times 10^scale), enum (place of the member). real: float. text: str. data: bytes.

  type @0 :UInt32;
  isNull @1 :Bool;
  integer @2 :Int64;
  real @3 :Float64;
  text @4 :Text;
  data @5 :Data;
}

struct CallBlob {
  # The operation name on args; type is that of the result.

  name @0 :Text;
  args @1 :List(UInt32);
  type @2 :UInt32;
}

struct ScalarBlob {
  union {
    columnRefBlob @0 :ColumnRefBlob;
    literalBlob @1 :LiteralBlob;
    callBlob @2 :CallBlob;
  }
}

# ---- relations ----------------------------------------------------------------------------------------

struct ColumnTypeBlob {
  # A column of a dataset.

  name @0 :Text;
  type @1 :UInt32;
}

struct DatasetBlob {
  # An empty key: append-only. broadcast: copied to every node. dropped: by a change of the program.

  name @0 :Text;
  columns @1 :List(ColumnTypeBlob);
  key @2 :List(Text);
  broadcast @3 :Bool;
  dropped @4 :Bool;
}

struct FilterBlob {
  # Rows for which predicate is true.

  input @0 :UInt32;
  predicate @1 :UInt32;
}

struct ProjectBlob {
  # One output column per scalar, under names.

  input @0 :UInt32;
  names @1 :List(Text);
  scalars @2 :List(UInt32);
}

struct AlternativeBlob {
  scalars @0 :List(UInt32);
}

struct FlatMapBlob {
  # Each input row once per alternative, followed by its scalars under names.

  input @0 :UInt32;
  names @1 :List(Text);
  alternatives @2 :List(AlternativeBlob);
}

struct WindowBlob {
  # Each input row once per window that contains at.

  input @0 :UInt32;
  at @1 :UInt32;
  sizeUs @2 :Int64;
  everyUs @3 :Int64;
}

struct JoinBlob {
  # onLeft and onRight pair by pair; condition: none or one scalar over the columns of both sides. rightNames: what
  # the right's columns are called, empty for semi and anti.

  left @0 :UInt32;
  right @1 :UInt32;
  onLeft @2 :List(UInt32);
  onRight @3 :List(UInt32);
  condition @4 :List(UInt32);
  how @5 :JoinKind;
  rightNames @6 :List(Text);
}

struct AggregationBlob {
  # argument and where: none or one scalar each.

  function @0 :AggregateKind;
  argument @1 :List(UInt32);
  where @2 :List(UInt32);
}

struct AggregateBlob {
  # The keys, then the aggregations, under names.

  input @0 :UInt32;
  names @1 :List(Text);
  keys @2 :List(UInt32);
  aggregations @3 :List(AggregationBlob);
}

struct SortBlob {
  value @0 :UInt32;
  descending @1 :Bool;
}

struct TopBlob {
  # rank: name of the column of places, or empty.

  input @0 :UInt32;
  count @1 :UInt32;
  order @2 :List(SortBlob);
  per @3 :List(UInt32);
  rank @4 :Text;
}

struct DistinctBlob {
  input @0 :UInt32;
}

struct UnionBlob {
  inputs @0 :List(UInt32);
}

struct DifferenceBlob {
  left @0 :UInt32;
  right @1 :UInt32;
}

struct AliasBlob {
  input @0 :UInt32;
  name @1 :Text;
}

struct OperationBlob {
  union {
    datasetBlob @0 :DatasetBlob;
    filterBlob @1 :FilterBlob;
    projectBlob @2 :ProjectBlob;
    flatMapBlob @3 :FlatMapBlob;
    windowBlob @4 :WindowBlob;
    joinBlob @5 :JoinBlob;
    aggregateBlob @6 :AggregateBlob;
    topBlob @7 :TopBlob;
    distinctBlob @8 :DistinctBlob;
    unionBlob @9 :UnionBlob;
    differenceBlob @10 :DifferenceBlob;
    aliasBlob @11 :AliasBlob;
  }
}

struct RelationBlob {
  # location: the user's file and line, for people only.

  location @0 :Text;
  operation @1 :OperationBlob;
}

struct ViewBlob {
  name @0 :Text;
  relation @1 :UInt32;
}

# ---- the program --------------------------------------------------------------------------------------

struct GraphBlob {
  name @0 :Text;
  types @1 :List(TypeBlob);
  scalars @2 :List(ScalarBlob);
  relations @3 :List(RelationBlob);
  views @4 :List(ViewBlob);
  before @5 :Data;  # the program that this one takes the place of, while that goes on: an encoded GraphBlob
}
