"""The tables. Times are unix seconds, UTC. A change here needs its migration; a test compares the two.

An index with a condition has it on PostgreSQL too, by its migration: saying so here would load that dialect, 50 ms of
every start.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

KEYS = Table(
    "keys",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),  # sha256 of the token, hex
    Column("last4", String(4), nullable=False),
    Column("created", Double, nullable=False),
    Column("revoked", Double),
    Column("expires", Double),
    Column("tenant", String(64)),  # null: the key's own name
    Column("is_admin", Boolean, nullable=False, server_default="0"),
    Column("limits", Text, nullable=False, server_default="{}"),  # JSON
    Column("old_hash", String(64)),  # of the token before the last rotation, good until `old_until`
    Column("old_until", Double),
    Column("version", Integer, nullable=False, server_default="0"),  # grows with each change of the row
    sqlite_autoincrement=True,  # an id is never used twice: the key ring watches the highest
)
Index(
    "ix_keys_active_name",
    KEYS.c.name,
    unique=True,
    sqlite_where=KEYS.c.revoked.is_(None),
)

# What keys have spent, by day.
BUDGETS = Table(
    "budgets",
    METADATA,
    Column("key", Integer, primary_key=True, autoincrement=False),
    Column("day", String(10), primary_key=True),  # 2026-01-31, UTC
    Column("usd", Double, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
)

JOURNAL = Table(
    "journal",
    METADATA,
    Column("id", String(32), primary_key=True),  # the trace's id
    Column("created", Double, nullable=False, index=True),
    Column("key", String(64)),
    Column("policy", Text),
    Column("route", Text),
    Column("requested_model", Text, nullable=False),
    Column("model", Text),  # who answered
    Column("path", Text, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", Text),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost_usd", Double),  # null: not known
    Column("escalated", Boolean, nullable=False),
    Column("ms", Double, nullable=False),
    Column("first_chunk_ms", Double),
    Column("trace", Text, nullable=False),  # JSON
    Column("tenant", String(64)),
)

# What was spent, summed by hour: it outlives the journal. Names are empty where there is none.
USAGE = Table(
    "usage",
    METADATA,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),  # its first second; of a day, once it is old
    Column("key", Text, primary_key=True),
    Column("policy", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("layer", Text, primary_key=True),
    Column("purpose", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),  # which it answered
    Column("errors", BigInteger, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("estimated", BigInteger, nullable=False),  # calls whose tokens were counted here
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("cost_usd", Double, nullable=False),  # of calls whose cost is known
    Column("unknown_cost", BigInteger, nullable=False),  # calls
    Column("busy_s", Double, nullable=False),
    Column("measured_j", Double, nullable=False),
    Column("modelled_j", Double, nullable=False),
    Column("unknown_energy", BigInteger, nullable=False),  # calls
)

# What the same answers would have cost, had one model of the policy given all of them. The empty model is the policy
# as it is.
RIVALS = Table(
    "rivals",
    METADATA,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text, primary_key=True),
    Column("policy", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("largest", Boolean, primary_key=True),  # it was the one that quality is measured against
    Column("requests", BigInteger, nullable=False),
    Column("compared", BigInteger, nullable=False),  # both costs are known
    Column("exact", BigInteger, nullable=False),  # of those: it gave the answer itself
    Column("instead_usd", Double, nullable=False),  # of those that are compared, as is the next
    Column("spent_usd", Double, nullable=False),
    Column("unable", BigInteger, nullable=False),  # it does not take such requests
    Column("judged", BigInteger, nullable=False),  # answers that checks have judged
    Column("passed", BigInteger, nullable=False),
)

# No foreign key to the journal: a rating may come before its trace is written, and outlives it.
FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("trace_id", String(32), nullable=False, index=True),
    Column("created", Double, nullable=False),
    Column("key", String(64)),
    Column("metric", String(64), nullable=False),
    Column("value", Text, nullable=False),  # JSON: true, 0.5 or "good"
    Column("comment", Text),
)

# No foreign key to the one before: that one may be deleted, and then the conversation cannot be gone on with.
RESPONSES = Table(
    "responses",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("key", String(64)),
    Column("previous", String(64)),  # the response that it goes on from
    Column("used", Double, nullable=False, index=True),  # when it was stored, or last gone on with
    Column("size", BigInteger, nullable=False),  # bytes of the two below
    Column("input", LargeBinary, nullable=False),  # JSON: its own items
    Column("response", LargeBinary, nullable=False),  # JSON: as it was answered
)

# What became of local models, step by step. The empty name is the gateway's own: its start, and what it may fill.
RESIDENCY = Table(
    "residency",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False, index=True),
    Column("model", Text, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("reason", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Column("ram_bytes", BigInteger),  # null: not known, or without a limit
    Column("gpu_bytes", BigInteger),
    Column("load_s", Double),
    Column("replica", Text, nullable=False, server_default=text("''")),  # of several gateways on one database
)

# Shards: what is searched by stands in columns, the rest in `body`. A deleted one leaves its row, emptied, so that
# subscribers hear of it.
SHARDS = Table(
    "shards",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("revision", BigInteger, nullable=False, unique=True),  # grows with each change of any shard
    Column("audience", String(40), nullable=False),
    Column("tenant", Text, nullable=False),
    Column("user", Text),
    Column("kind", String(8), nullable=False),
    Column("state", String(9), nullable=False),
    Column("writer", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("source_hash", String(64), nullable=False),
    Column("lot", String(32), nullable=False),
    Column("slot", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Column("valid_to", Double),
    Column("body", Text, nullable=False),  # JSON
)
Index("ix_shards_audience_state", SHARDS.c.audience, SHARDS.c.state)
Index("ix_shards_tenant_source", SHARDS.c.tenant, SHARDS.c.source)
Index("ix_shards_audience_slot", SHARDS.c.audience, SHARDS.c.slot)
Index("ix_shards_writer_created", SHARDS.c.writer, SHARDS.c.created)
Index("ix_shards_lot", SHARDS.c.lot)

# The texts that a shard is found by, each with its vector once one has been made. The text itself is in `shard_fts`
# (FTS5: who, text) under the same number.
SHARD_KEYS = Table(
    "shard_keys",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("shard", String(32), nullable=False, index=True),
    Column("audience", String(40), nullable=False),
    Column("vector", LargeBinary),  # float32, little-endian
    sqlite_autoincrement=True,  # an id is never used twice: indexes follow the highest
)

Index("ix_shard_keys_bare", SHARD_KEYS.c.id, sqlite_where=SHARD_KEYS.c.vector.is_(None))

READER = String(64).with_variant(Text(), "postgresql")  # a model's name, of up to 128; SQLite looks at no length

# A shard and one reader of it.
SHARD_READERS = Table(
    "shard_readers",
    METADATA,
    Column("shard", String(32), primary_key=True),
    Column("reader", READER, primary_key=True),
    Column("state", String(9), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("evidence", Text, nullable=False),  # JSON
    Column("shown", BigInteger, nullable=False),
    Column("shown_passed", BigInteger, nullable=False),
    Column("withheld", BigInteger, nullable=False),
    Column("withheld_passed", BigInteger, nullable=False),
    Column("alarm", Text, nullable=False),  # JSON
    Column("updated", Double, nullable=False),
)

# Requests and answers that a policy with `learn: true` keeps to learn from: those that went on to a larger model.
LESSONS = Table(
    "lessons",
    METADATA,
    Column("id", String(32), primary_key=True),  # the trace's id
    Column("created", Double, nullable=False, index=True),
    Column("tenant", Text, nullable=False),
    Column("user", Text),
    Column("policy", Text, nullable=False),
    Column("model", Text, nullable=False),  # who answered
    Column("failed", Text, nullable=False),  # JSON: {model: why it was left}
    Column("request", Text, nullable=False),  # JSON
    Column("answer", Text, nullable=False),  # JSON: the message
    Column("used", Boolean, nullable=False),  # in a shard
)

# Drafts that a policy with `quality` judged, in numbers alone: what they were worth, and whether the model that the
# promise is measured against said the same.
DRAFTS = Table(
    "drafts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("trace", String(32), nullable=False, index=True),
    Column("created", Double, nullable=False, index=True),
    Column("arm", Text, nullable=False),  # policy and place of the tier
    Column("fingerprint", String(64), nullable=False),
    Column("model", Text, nullable=False),
    Column("score", Double, nullable=False),  # chance that it is right, as it was held to be
    Column("configured", Boolean, nullable=False),  # did it pass the checks as the policy has them
    Column("accepted", Boolean, nullable=False),
    Column("audited", Boolean, nullable=False),  # chosen for an audit before anything was known of it
    Column("same", Boolean),  # null: nobody else was asked
    Column("features", Text, nullable=False),  # JSON: {name: number}
)
Index("ix_drafts_arm_created", DRAFTS.c.arm, DRAFTS.c.created)

# A promise and how far it has come.
ARMS = Table(
    "arms",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("state", Text, nullable=False),  # JSON
    Column("updated", Double, nullable=False),
)

# Files that a client has sent, to train on.
FILES = Table(
    "files",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("created", Double, nullable=False, index=True),
    Column("key", String(64)),
    Column("purpose", String(32), nullable=False),
    Column("filename", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
)

TRAINING_JOBS = Table(
    "training_jobs",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("created", Double, nullable=False, index=True),
    Column("key", String(64)),
    Column("status", String(20), nullable=False, index=True),
    Column("body", Text, nullable=False),  # JSON
)

TRAINING_EVENTS = Table(
    "training_events",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("job", String(40), nullable=False, index=True),
    Column("created", Double, nullable=False),
    Column("level", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Text, nullable=False),  # JSON
    sqlite_autoincrement=True,
)

# Requests that an adapter was tried on.
ADAPTER_OUTCOMES = Table(
    "adapter_outcomes",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("created", Double, nullable=False),
    Column("adapter", Text, nullable=False, index=True),
    Column("kind", String(32), nullable=False),
    Column("state", String(16), nullable=False),  # in which it was tried
    Column("share", Double, nullable=False),  # of the requests that it answered then
    Column("right", Boolean, nullable=False),  # it said what a larger model or a person says
    Column("before", Boolean, nullable=False),  # so did what answered before it
)

# Cached answers, where models.yaml says `cache: {store: sqlite}`. Of what was asked there are hashes alone.
ANSWERS = Table(
    "answers",
    METADATA,
    Column("key", LargeBinary, primary_key=True),
    Column("tenant", Text, nullable=False, index=True),
    Column("user", Text),
    Column("created", Double, nullable=False, index=True),
    Column("expires", Double, nullable=False, index=True),
    Column("size", BigInteger, nullable=False),  # bytes that it takes
    Column("body", LargeBinary, nullable=False),  # JSON
    Column("alike", LargeBinary),  # a hash of all but the last words
    Column("vector", LargeBinary),  # of these words: float32, little-endian
)
Index("ix_answers_alike_created", ANSWERS.c.alike, ANSWERS.c.created, sqlite_where=ANSWERS.c.alike.is_not(None))

# What was to be erased of cached answers, for running servers to hear of it. Null: of any.
ANSWER_PURGES = Table(
    "answer_purges",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("created", Double, nullable=False),
    Column("tenant", Text),
    Column("user", Text),
    sqlite_autoincrement=True,  # an id is never used twice: servers remember the highest
)
