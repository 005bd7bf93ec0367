-- Facts and events: small, versioned, read with FINAL; a new version is appended, nothing is updated in place.
-- Events replace by event_id, so a replay after a reconnect or a restart counts once.
CREATE TABLE IF NOT EXISTS {table:events}
(
    at DateTime64(3, 'UTC'),
    event_id String,
    host LowCardinality(String),
    tenant LowCardinality(String),
    container_key LowCardinality(String),
    container_id String,
    gpu_uuid LowCardinality(String),
    source LowCardinality(String),
    kind LowCardinality(String),
    severity LowCardinality(String),
    title String,
    detail String,
    attributes Map(String, String)
)
ENGINE = {engine:ReplacingMergeTree}
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, at, event_id)
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS {table:containers}
(
    seen_at DateTime64(3, 'UTC'),
    host LowCardinality(String),
    tenant LowCardinality(String),
    team LowCardinality(String),
    owner LowCardinality(String),
    tenant_origin LowCardinality(String),
    container_key String,
    container_id String,
    name String,
    image String,
    image_id String,
    image_digest String,
    image_created_at Nullable(DateTime64(3, 'UTC')),
    compose_project LowCardinality(String),
    compose_service LowCardinality(String),
    labels Map(String, String),
    user String,
    state LowCardinality(String),
    health LowCardinality(String),
    exit_code Nullable(Int32),
    oom_killed UInt8,
    error String,
    created_at Nullable(DateTime64(3, 'UTC')),
    started_at Nullable(DateTime64(3, 'UTC')),
    finished_at Nullable(DateTime64(3, 'UTC')),
    restart_count UInt32,
    cpu_limit_cores Nullable(Float32),
    memory_limit_bytes Nullable(UInt64),
    gpu_request String,
    gpu_uuids Array(String),
    privileged UInt8,
    removed UInt8
)
ENGINE = {engine:ReplacingMergeTree(seen_at)}
ORDER BY (host, container_id)
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS {table:gpus}
(
    seen_at DateTime64(3, 'UTC'),
    host LowCardinality(String),
    gpu_uuid String,
    parent_uuid String,
    gpu_index UInt16,
    name LowCardinality(String),
    mig_profile LowCardinality(String),
    memory_total_bytes Nullable(UInt64),
    pci_bus_id String,
    driver_version LowCardinality(String),
    power_limit_watts Nullable(Float32)
)
ENGINE = {engine:ReplacingMergeTree(seen_at)}
ORDER BY (host, gpu_uuid)
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS {table:hosts}
(
    seen_at DateTime64(3, 'UTC'),
    host LowCardinality(String),
    docker_version LowCardinality(String),
    os String,
    kernel String,
    cgroup_version LowCardinality(String),
    cgroup_driver LowCardinality(String),
    cpu_count Nullable(UInt32),
    memory_total_bytes Nullable(UInt64),
    stats_path LowCardinality(String)
)
ENGINE = {engine:ReplacingMergeTree(seen_at)}
ORDER BY host
SETTINGS {settings};
