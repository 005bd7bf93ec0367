-- 1-hour rollups, fed by materialized views from the raw tables in the same insert.
-- Every column is additive or a maximum: increments keep their name and are sums (all unknown stays NULL); a gauge g
-- becomes g_weighted = sum(g * interval_seconds), g_weight_seconds = seconds in which g was known, and g_max, so the
-- mean over any span is sum(g_weighted) / sum(g_weight_seconds). Rows of one key may be unmerged: always read with
-- sum()/max() and GROUP BY. Throttle reasons are the bits seen. Keyed by who, then when: one entity over a long span is one range.
-- The views name their source (s.) because an alias that shadows a source column makes the engine refuse the view.

CREATE TABLE IF NOT EXISTS {table:container_samples_1h}
(
    at DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    host LowCardinality(String),
    tenant LowCardinality(String),
    container_key LowCardinality(String),
    container_id LowCardinality(String),
    samples SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    interval_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    cpu_seconds SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    cpu_periods SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    cpu_throttled_periods SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    cpu_throttled_seconds SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    network_receive_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    network_transmit_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    block_read_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    block_write_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    restarts SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    oom_kills SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    cpu_limit_cores_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    cpu_limit_cores_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    cpu_limit_cores_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    memory_working_set_bytes_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    memory_working_set_bytes_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    memory_working_set_bytes_max SimpleAggregateFunction(max, Nullable(UInt64)) CODEC(ZSTD(1)),
    memory_cache_bytes_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    memory_cache_bytes_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    memory_cache_bytes_max SimpleAggregateFunction(max, Nullable(UInt64)) CODEC(ZSTD(1)),
    memory_limit_bytes_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    memory_limit_bytes_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    memory_limit_bytes_max SimpleAggregateFunction(max, Nullable(UInt64)) CODEC(ZSTD(1)),
    pids_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    pids_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    pids_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1))
)
ENGINE = {engine:AggregatingMergeTree}
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, host, container_key, container_id, at)
SETTINGS {settings};

CREATE MATERIALIZED VIEW IF NOT EXISTS {view:container_samples_1h_mv} TO {local:container_samples_1h} AS
SELECT
    toStartOfHour(s.at) AS at,
    s.host AS host,
    s.tenant AS tenant,
    s.container_key AS container_key,
    s.container_id AS container_id,
    count() AS samples,
    sum(toFloat64(s.interval_seconds)) AS interval_seconds,
    sum(s.cpu_seconds) AS cpu_seconds,
    sum(s.cpu_periods) AS cpu_periods,
    sum(s.cpu_throttled_periods) AS cpu_throttled_periods,
    sum(s.cpu_throttled_seconds) AS cpu_throttled_seconds,
    sum(s.network_receive_bytes) AS network_receive_bytes,
    sum(s.network_transmit_bytes) AS network_transmit_bytes,
    sum(s.block_read_bytes) AS block_read_bytes,
    sum(s.block_write_bytes) AS block_write_bytes,
    sum(s.restarts) AS restarts,
    sum(s.oom_kills) AS oom_kills,
    sum(toFloat64(s.cpu_limit_cores) * s.interval_seconds) AS cpu_limit_cores_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.cpu_limit_cores)) AS cpu_limit_cores_weight_seconds,
    max(s.cpu_limit_cores) AS cpu_limit_cores_max,
    sum(toFloat64(s.memory_working_set_bytes) * s.interval_seconds) AS memory_working_set_bytes_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.memory_working_set_bytes)) AS memory_working_set_bytes_weight_seconds,
    max(s.memory_working_set_bytes) AS memory_working_set_bytes_max,
    sum(toFloat64(s.memory_cache_bytes) * s.interval_seconds) AS memory_cache_bytes_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.memory_cache_bytes)) AS memory_cache_bytes_weight_seconds,
    max(s.memory_cache_bytes) AS memory_cache_bytes_max,
    sum(toFloat64(s.memory_limit_bytes) * s.interval_seconds) AS memory_limit_bytes_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.memory_limit_bytes)) AS memory_limit_bytes_weight_seconds,
    max(s.memory_limit_bytes) AS memory_limit_bytes_max,
    sum(toFloat64(s.pids) * s.interval_seconds) AS pids_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.pids)) AS pids_weight_seconds,
    max(s.pids) AS pids_max
FROM {local:container_samples} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, toStartOfHour(s.at);

CREATE TABLE IF NOT EXISTS {table:gpu_samples_1h}
(
    at DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    host LowCardinality(String),
    gpu_uuid LowCardinality(String),
    parent_uuid LowCardinality(String),
    gpu_index UInt16,
    samples SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    interval_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    energy_joules SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ecc_corrected SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    ecc_uncorrected SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    busy_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    busy_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    busy_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    sm_active_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    sm_active_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    sm_active_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    sm_occupancy_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    sm_occupancy_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    sm_occupancy_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    tensor_active_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    tensor_active_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    tensor_active_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    dram_active_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    dram_active_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    dram_active_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    memory_used_bytes_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    memory_used_bytes_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    memory_used_bytes_max SimpleAggregateFunction(max, Nullable(UInt64)) CODEC(ZSTD(1)),
    memory_reserved_bytes_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    memory_reserved_bytes_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    memory_reserved_bytes_max SimpleAggregateFunction(max, Nullable(UInt64)) CODEC(ZSTD(1)),
    memory_total_bytes_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    memory_total_bytes_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    memory_total_bytes_max SimpleAggregateFunction(max, Nullable(UInt64)) CODEC(ZSTD(1)),
    power_watts_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    power_watts_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    power_watts_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    power_limit_watts_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    power_limit_watts_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    power_limit_watts_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    temperature_celsius_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    temperature_celsius_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    temperature_celsius_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    memory_temperature_celsius_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    memory_temperature_celsius_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    memory_temperature_celsius_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    sm_clock_mhz_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    sm_clock_mhz_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    sm_clock_mhz_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1)),
    memory_clock_mhz_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    memory_clock_mhz_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    memory_clock_mhz_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1)),
    remapped_rows_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    remapped_rows_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    remapped_rows_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1)),
    process_count_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    process_count_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    process_count_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1)),
    throttle_reasons SimpleAggregateFunction(groupBitOr, Nullable(UInt64)) CODEC(ZSTD(1)),
    remap_pending_max SimpleAggregateFunction(max, Nullable(UInt8)) CODEC(ZSTD(1)),
    xid_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1))
)
ENGINE = {engine:AggregatingMergeTree}
PARTITION BY toYYYYMM(at)
ORDER BY (host, gpu_uuid, parent_uuid, gpu_index, at)
SETTINGS {settings};

CREATE MATERIALIZED VIEW IF NOT EXISTS {view:gpu_samples_1h_mv} TO {local:gpu_samples_1h} AS
SELECT
    toStartOfHour(s.at) AS at,
    s.host AS host,
    s.gpu_uuid AS gpu_uuid,
    s.parent_uuid AS parent_uuid,
    s.gpu_index AS gpu_index,
    count() AS samples,
    sum(toFloat64(s.interval_seconds)) AS interval_seconds,
    sum(s.energy_joules) AS energy_joules,
    sum(s.ecc_corrected) AS ecc_corrected,
    sum(s.ecc_uncorrected) AS ecc_uncorrected,
    sum(toFloat64(s.busy_ratio) * s.interval_seconds) AS busy_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.busy_ratio)) AS busy_ratio_weight_seconds,
    max(s.busy_ratio) AS busy_ratio_max,
    sum(toFloat64(s.sm_active_ratio) * s.interval_seconds) AS sm_active_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.sm_active_ratio)) AS sm_active_ratio_weight_seconds,
    max(s.sm_active_ratio) AS sm_active_ratio_max,
    sum(toFloat64(s.sm_occupancy_ratio) * s.interval_seconds) AS sm_occupancy_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.sm_occupancy_ratio)) AS sm_occupancy_ratio_weight_seconds,
    max(s.sm_occupancy_ratio) AS sm_occupancy_ratio_max,
    sum(toFloat64(s.tensor_active_ratio) * s.interval_seconds) AS tensor_active_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.tensor_active_ratio)) AS tensor_active_ratio_weight_seconds,
    max(s.tensor_active_ratio) AS tensor_active_ratio_max,
    sum(toFloat64(s.dram_active_ratio) * s.interval_seconds) AS dram_active_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.dram_active_ratio)) AS dram_active_ratio_weight_seconds,
    max(s.dram_active_ratio) AS dram_active_ratio_max,
    sum(toFloat64(s.memory_used_bytes) * s.interval_seconds) AS memory_used_bytes_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.memory_used_bytes)) AS memory_used_bytes_weight_seconds,
    max(s.memory_used_bytes) AS memory_used_bytes_max,
    sum(toFloat64(s.memory_reserved_bytes) * s.interval_seconds) AS memory_reserved_bytes_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.memory_reserved_bytes)) AS memory_reserved_bytes_weight_seconds,
    max(s.memory_reserved_bytes) AS memory_reserved_bytes_max,
    sum(toFloat64(s.memory_total_bytes) * s.interval_seconds) AS memory_total_bytes_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.memory_total_bytes)) AS memory_total_bytes_weight_seconds,
    max(s.memory_total_bytes) AS memory_total_bytes_max,
    sum(toFloat64(s.power_watts) * s.interval_seconds) AS power_watts_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.power_watts)) AS power_watts_weight_seconds,
    max(s.power_watts) AS power_watts_max,
    sum(toFloat64(s.power_limit_watts) * s.interval_seconds) AS power_limit_watts_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.power_limit_watts)) AS power_limit_watts_weight_seconds,
    max(s.power_limit_watts) AS power_limit_watts_max,
    sum(toFloat64(s.temperature_celsius) * s.interval_seconds) AS temperature_celsius_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.temperature_celsius)) AS temperature_celsius_weight_seconds,
    max(s.temperature_celsius) AS temperature_celsius_max,
    sum(toFloat64(s.memory_temperature_celsius) * s.interval_seconds) AS memory_temperature_celsius_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.memory_temperature_celsius)) AS memory_temperature_celsius_weight_seconds,
    max(s.memory_temperature_celsius) AS memory_temperature_celsius_max,
    sum(toFloat64(s.sm_clock_mhz) * s.interval_seconds) AS sm_clock_mhz_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.sm_clock_mhz)) AS sm_clock_mhz_weight_seconds,
    max(s.sm_clock_mhz) AS sm_clock_mhz_max,
    sum(toFloat64(s.memory_clock_mhz) * s.interval_seconds) AS memory_clock_mhz_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.memory_clock_mhz)) AS memory_clock_mhz_weight_seconds,
    max(s.memory_clock_mhz) AS memory_clock_mhz_max,
    sum(toFloat64(s.remapped_rows) * s.interval_seconds) AS remapped_rows_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.remapped_rows)) AS remapped_rows_weight_seconds,
    max(s.remapped_rows) AS remapped_rows_max,
    sum(toFloat64(s.process_count) * s.interval_seconds) AS process_count_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.process_count)) AS process_count_weight_seconds,
    max(s.process_count) AS process_count_max,
    groupBitOr(s.throttle_reasons) AS throttle_reasons,
    max(s.remap_pending) AS remap_pending_max,
    max(s.xid) AS xid_max
FROM {local:gpu_samples} AS s
GROUP BY s.host, s.gpu_uuid, s.parent_uuid, s.gpu_index, toStartOfHour(s.at);

CREATE TABLE IF NOT EXISTS {table:container_gpu_samples_1h}
(
    at DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    host LowCardinality(String),
    tenant LowCardinality(String),
    container_key LowCardinality(String),
    container_id LowCardinality(String),
    gpu_uuid LowCardinality(String),
    samples SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    interval_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    held_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    energy_joules SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    memory_bytes_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    memory_bytes_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    memory_bytes_max SimpleAggregateFunction(max, Nullable(UInt64)) CODEC(ZSTD(1)),
    sm_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    sm_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    sm_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    power_watts_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    power_watts_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    power_watts_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1))
)
ENGINE = {engine:AggregatingMergeTree}
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, host, container_key, container_id, gpu_uuid, at)
SETTINGS {settings};

CREATE MATERIALIZED VIEW IF NOT EXISTS {view:container_gpu_samples_1h_mv} TO {local:container_gpu_samples_1h} AS
SELECT
    toStartOfHour(s.at) AS at,
    s.host AS host,
    s.tenant AS tenant,
    s.container_key AS container_key,
    s.container_id AS container_id,
    s.gpu_uuid AS gpu_uuid,
    count() AS samples,
    sum(toFloat64(s.interval_seconds)) AS interval_seconds,
    sum(s.held * toFloat64(s.interval_seconds)) AS held_seconds,
    sum(s.energy_joules) AS energy_joules,
    sum(toFloat64(s.memory_bytes) * s.interval_seconds) AS memory_bytes_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.memory_bytes)) AS memory_bytes_weight_seconds,
    max(s.memory_bytes) AS memory_bytes_max,
    sum(toFloat64(s.sm_ratio) * s.interval_seconds) AS sm_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.sm_ratio)) AS sm_ratio_weight_seconds,
    max(s.sm_ratio) AS sm_ratio_max,
    sum(toFloat64(s.power_watts) * s.interval_seconds) AS power_watts_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.power_watts)) AS power_watts_weight_seconds,
    max(s.power_watts) AS power_watts_max
FROM {local:container_gpu_samples} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, s.gpu_uuid, toStartOfHour(s.at);

CREATE TABLE IF NOT EXISTS {table:inference_samples_1h}
(
    at DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    host LowCardinality(String),
    tenant LowCardinality(String),
    container_key LowCardinality(String),
    container_id LowCardinality(String),
    prometheus LowCardinality(String),
    endpoint LowCardinality(String),
    server LowCardinality(String),
    model LowCardinality(String),
    samples SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    interval_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    up_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    requests SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    errors SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    prompt_tokens SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    generation_tokens SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    cached_tokens SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    requests_waiting_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    requests_waiting_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    requests_waiting_max SimpleAggregateFunction(max, Nullable(Float64)) CODEC(ZSTD(1)),
    requests_running_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    requests_running_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    requests_running_max SimpleAggregateFunction(max, Nullable(Float64)) CODEC(ZSTD(1)),
    kv_cache_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    kv_cache_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    kv_cache_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1))
)
ENGINE = {engine:AggregatingMergeTree}
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, host, container_key, container_id, prometheus, endpoint, server, model, at)
SETTINGS {settings};

CREATE MATERIALIZED VIEW IF NOT EXISTS {view:inference_samples_1h_mv} TO {local:inference_samples_1h} AS
SELECT
    toStartOfHour(s.at) AS at,
    s.host AS host,
    s.tenant AS tenant,
    s.container_key AS container_key,
    s.container_id AS container_id,
    s.prometheus AS prometheus,
    s.endpoint AS endpoint,
    s.server AS server,
    s.model AS model,
    count() AS samples,
    sum(toFloat64(s.interval_seconds)) AS interval_seconds,
    sum(s.up * toFloat64(s.interval_seconds)) AS up_seconds,
    sum(s.requests) AS requests,
    sum(s.errors) AS errors,
    sum(s.prompt_tokens) AS prompt_tokens,
    sum(s.generation_tokens) AS generation_tokens,
    sum(s.cached_tokens) AS cached_tokens,
    sum(toFloat64(s.requests_waiting) * s.interval_seconds) AS requests_waiting_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.requests_waiting)) AS requests_waiting_weight_seconds,
    max(s.requests_waiting) AS requests_waiting_max,
    sum(toFloat64(s.requests_running) * s.interval_seconds) AS requests_running_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.requests_running)) AS requests_running_weight_seconds,
    max(s.requests_running) AS requests_running_max,
    sum(toFloat64(s.kv_cache_ratio) * s.interval_seconds) AS kv_cache_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.kv_cache_ratio)) AS kv_cache_ratio_weight_seconds,
    max(s.kv_cache_ratio) AS kv_cache_ratio_max
FROM {local:inference_samples} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, s.prometheus, s.endpoint, s.server, s.model, toStartOfHour(s.at);

CREATE TABLE IF NOT EXISTS {table:histograms_1h}
(
    at DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    host LowCardinality(String),
    tenant LowCardinality(String),
    container_key LowCardinality(String),
    container_id LowCardinality(String),
    endpoint LowCardinality(String),
    server LowCardinality(String),
    model LowCardinality(String),
    field LowCardinality(String),
    bounds Array(Float64) CODEC(ZSTD(1)),
    samples SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    interval_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    sum_increment SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    increments AggregateFunction(sumForEach, Array(Float64)) CODEC(ZSTD(1))
)
ENGINE = {engine:AggregatingMergeTree}
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, host, container_key, container_id, endpoint, server, model, field, bounds, at)
SETTINGS {settings};

CREATE MATERIALIZED VIEW IF NOT EXISTS {view:histograms_1h_mv} TO {local:histograms_1h} AS
SELECT
    toStartOfHour(s.at) AS at,
    s.host AS host,
    s.tenant AS tenant,
    s.container_key AS container_key,
    s.container_id AS container_id,
    s.endpoint AS endpoint,
    s.server AS server,
    s.model AS model,
    s.field AS field,
    s.bounds AS bounds,
    count() AS samples,
    sum(toFloat64(s.interval_seconds)) AS interval_seconds,
    sum(s.sum_increment) AS sum_increment,
    sumForEachState(s.increments) AS increments
FROM {local:histograms} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, s.endpoint, s.server, s.model, s.field, s.bounds, toStartOfHour(s.at);
