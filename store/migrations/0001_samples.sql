-- Samples: one row per entity per poll; counters are increments over interval_seconds.
-- The key begins with the hour: fleet-wide queries over the last minutes then read one granule range
-- (measured 39 ms against 482 ms for a tenant-first key, 24 h of 500 containers). Rollups are keyed the other way.
CREATE TABLE IF NOT EXISTS {table:container_samples}
(
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    host LowCardinality(String),
    tenant LowCardinality(String),
    container_key LowCardinality(String),
    container_id LowCardinality(String),
    interval_seconds Float32 CODEC(ZSTD(1)),
    cpu_seconds Nullable(Float64) CODEC(ZSTD(1)),
    cpu_periods Nullable(UInt32) CODEC(ZSTD(1)),
    cpu_throttled_periods Nullable(UInt32) CODEC(ZSTD(1)),
    cpu_throttled_seconds Nullable(Float64) CODEC(ZSTD(1)),
    cpu_limit_cores Nullable(Float32) CODEC(ZSTD(1)),
    memory_working_set_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    memory_cache_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    memory_limit_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    network_receive_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    network_transmit_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    block_read_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    block_write_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    pids Nullable(UInt32) CODEC(ZSTD(1)),
    restarts UInt32 CODEC(ZSTD(1)),
    oom_kills Nullable(UInt32) CODEC(ZSTD(1)),
    state LowCardinality(String),
    health LowCardinality(String),
    unknown_reason LowCardinality(String)
)
ENGINE = {engine:MergeTree}
PARTITION BY toDate(at)
ORDER BY (toStartOfHour(at), tenant, container_key, at)
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS {table:gpu_samples}
(
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    host LowCardinality(String),
    gpu_uuid LowCardinality(String),
    parent_uuid LowCardinality(String),
    gpu_index UInt16,
    interval_seconds Float32 CODEC(ZSTD(1)),
    busy_ratio Nullable(Float32) CODEC(ZSTD(1)),
    sm_active_ratio Nullable(Float32) CODEC(ZSTD(1)),
    sm_occupancy_ratio Nullable(Float32) CODEC(ZSTD(1)),
    tensor_active_ratio Nullable(Float32) CODEC(ZSTD(1)),
    dram_active_ratio Nullable(Float32) CODEC(ZSTD(1)),
    memory_used_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    memory_reserved_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    memory_total_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    power_watts Nullable(Float32) CODEC(ZSTD(1)),
    power_limit_watts Nullable(Float32) CODEC(ZSTD(1)),
    energy_joules Nullable(Float64) CODEC(ZSTD(1)),
    temperature_celsius Nullable(Float32) CODEC(ZSTD(1)),
    memory_temperature_celsius Nullable(Float32) CODEC(ZSTD(1)),
    sm_clock_mhz Nullable(UInt32) CODEC(ZSTD(1)),
    memory_clock_mhz Nullable(UInt32) CODEC(ZSTD(1)),
    throttle_reasons Nullable(UInt64) CODEC(ZSTD(1)),
    ecc_corrected Nullable(UInt64) CODEC(ZSTD(1)),
    ecc_uncorrected Nullable(UInt64) CODEC(ZSTD(1)),
    remapped_rows Nullable(UInt32) CODEC(ZSTD(1)),
    remap_pending Nullable(UInt8) CODEC(ZSTD(1)),
    xid Nullable(UInt32) CODEC(ZSTD(1)),
    process_count Nullable(UInt32) CODEC(ZSTD(1)),
    state LowCardinality(String),
    unknown_reason LowCardinality(String)
)
ENGINE = {engine:MergeTree}
PARTITION BY toDate(at)
ORDER BY (toStartOfHour(at), host, gpu_uuid, at)
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS {table:container_gpu_samples}
(
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    host LowCardinality(String),
    tenant LowCardinality(String),
    container_key LowCardinality(String),
    container_id LowCardinality(String),
    gpu_uuid LowCardinality(String),
    interval_seconds Float32 CODEC(ZSTD(1)),
    held UInt8,
    memory_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    sm_ratio Nullable(Float32) CODEC(ZSTD(1)),
    power_watts Nullable(Float32) CODEC(ZSTD(1)),
    energy_joules Nullable(Float64) CODEC(ZSTD(1)),
    attribution LowCardinality(String),
    attribution_reason LowCardinality(String)
)
ENGINE = {engine:MergeTree}
PARTITION BY toDate(at)
ORDER BY (toStartOfHour(at), tenant, container_key, gpu_uuid, at)
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS {table:inference_samples}
(
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    host LowCardinality(String),
    tenant LowCardinality(String),
    container_key LowCardinality(String),
    container_id LowCardinality(String),
    prometheus LowCardinality(String),
    endpoint LowCardinality(String),
    server LowCardinality(String),
    model LowCardinality(String),
    interval_seconds Float32 CODEC(ZSTD(1)),
    up UInt8,
    requests Nullable(Float64) CODEC(ZSTD(1)),
    errors Nullable(Float64) CODEC(ZSTD(1)),
    prompt_tokens Nullable(Float64) CODEC(ZSTD(1)),
    generation_tokens Nullable(Float64) CODEC(ZSTD(1)),
    cached_tokens Nullable(Float64) CODEC(ZSTD(1)),
    requests_waiting Nullable(Float64) CODEC(ZSTD(1)),
    requests_running Nullable(Float64) CODEC(ZSTD(1)),
    kv_cache_ratio Nullable(Float32) CODEC(ZSTD(1)),
    joined_by LowCardinality(String),
    join_reason LowCardinality(String),
    unknown_reason LowCardinality(String)
)
ENGINE = {engine:MergeTree}
PARTITION BY toDate(at)
ORDER BY (toStartOfHour(at), tenant, container_key, endpoint, model, at)
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS {table:histograms}
(
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    host LowCardinality(String),
    tenant LowCardinality(String),
    container_key LowCardinality(String),
    container_id LowCardinality(String),
    endpoint LowCardinality(String),
    server LowCardinality(String),
    model LowCardinality(String),
    field LowCardinality(String),
    interval_seconds Float32 CODEC(ZSTD(1)),
    bounds Array(Float64) CODEC(ZSTD(1)),
    increments Array(Float64) CODEC(ZSTD(1)),
    sum_increment Nullable(Float64) CODEC(ZSTD(1))
)
ENGINE = {engine:MergeTree}
PARTITION BY toDate(at)
ORDER BY (toStartOfHour(at), tenant, field, container_key, endpoint, model, at)
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS {table:source_runs}
(
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    source LowCardinality(String),
    target LowCardinality(String),
    state LowCardinality(String),
    interval_seconds Float32 CODEC(ZSTD(1)),
    took_seconds Float32 CODEC(ZSTD(1)),
    rows UInt32 CODEC(ZSTD(1)),
    reason LowCardinality(String),
    error String CODEC(ZSTD(1)),
    next_step String CODEC(ZSTD(1)),
    detail String CODEC(ZSTD(1))
)
ENGINE = {engine:MergeTree}
PARTITION BY toDate(at)
ORDER BY (source, target, at)
SETTINGS {settings};
