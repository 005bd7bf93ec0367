-- GPU truth: who holds a device, who uses it, how much of its power is idle draw, and the ledger of GPU jobs.
-- `activity_seconds` of the rollups: seconds by activity, so that busy, low and idle time can be told over any span and
-- for any threshold that lies on a bucket's edge. Key = bucket of `fleet.gpu_time.activity_bucket` (31 = not known),
-- + 32 when a container held the device, + 64 when nobody could be asked. Weight columns: seconds in which the counters
-- of a group were known; rows rolled up before this file answer with all their seconds where the counter was known at all.

ALTER TABLE {table:gpu_samples}
    ADD COLUMN IF NOT EXISTS encoder_ratio Nullable(Float32) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS decoder_ratio Nullable(Float32) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS pcie_receive_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS pcie_transmit_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS nvlink_receive_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS nvlink_transmit_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts Nullable(Float32) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS recovery_action Nullable(UInt32) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS holders Nullable(UInt32) CODEC(ZSTD(1));

ALTER TABLE {table:container_gpu_samples}
    ADD COLUMN IF NOT EXISTS processes Nullable(UInt32) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS sm_active_ratio Nullable(Float32) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts Nullable(Float32) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_energy_joules Nullable(Float64) CODEC(ZSTD(1));

ALTER TABLE {table:containers}
    ADD COLUMN IF NOT EXISTS gpu_request_kind LowCardinality(String),
    ADD COLUMN IF NOT EXISTS gpu_unresolved Array(String);

ALTER TABLE {table:gpus}
    ADD COLUMN IF NOT EXISTS mig_enabled UInt8,
    ADD COLUMN IF NOT EXISTS slice_ratio Float32 DEFAULT 1;

CREATE TABLE IF NOT EXISTS {table:gpu_jobs}
(
    at DateTime64(3, 'UTC'),
    chain LowCardinality(String),
    sequence UInt64,
    entry LowCardinality(String),
    job_id String,
    host LowCardinality(String),
    tenant LowCardinality(String),
    team LowCardinality(String),
    user LowCardinality(String),
    workload String,
    container_key String,
    container_id String,
    container_name String,
    image String,
    image_digest String,
    gpu_uuids Array(String),
    gpu_names Array(String),
    gpu_count Float64,
    started_at DateTime64(3, 'UTC'),
    ended_at Nullable(DateTime64(3, 'UTC')),
    duration_seconds Nullable(Float64),
    gpu_hours Nullable(Float64),
    energy_joules Nullable(Float64),
    exit_code Nullable(Int32),
    end_reason String,
    sources Map(String, String),
    previous_hash String,
    hash String
)
ENGINE = {engine:MergeTree}
PARTITION BY toYYYYMM(at)
ORDER BY (chain, sequence)
SETTINGS {settings};

ALTER TABLE {table:container_samples_1m}
    ADD COLUMN IF NOT EXISTS cpu_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(cpu_seconds), 0, interval_seconds) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS network_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(network_receive_bytes), 0, interval_seconds) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS block_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(block_read_bytes), 0, interval_seconds) CODEC(ZSTD(1));

DROP VIEW IF EXISTS {view:container_samples_1m_mv};

CREATE MATERIALIZED VIEW IF NOT EXISTS {view:container_samples_1m_mv} TO {local:container_samples_1m} AS
SELECT
    toStartOfMinute(s.at) AS at,
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
    max(s.pids) AS pids_max,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.cpu_seconds)) AS cpu_weight_seconds,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.network_receive_bytes)) AS network_weight_seconds,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.block_read_bytes)) AS block_weight_seconds
FROM {local:container_samples} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, toStartOfMinute(s.at);

ALTER TABLE {table:gpu_samples_1m}
    ADD COLUMN IF NOT EXISTS encoder_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS encoder_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS encoder_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS decoder_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS decoder_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS decoder_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS pcie_receive_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS pcie_transmit_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS nvlink_receive_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS nvlink_transmit_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS recovery_action_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS holders_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS holders_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS holders_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS energy_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(energy_joules), 0, interval_seconds) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS pcie_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS nvlink_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS activity_seconds SimpleAggregateFunction(sumMap, Map(UInt8, Float64)) CODEC(ZSTD(1));

DROP VIEW IF EXISTS {view:gpu_samples_1m_mv};

CREATE MATERIALIZED VIEW IF NOT EXISTS {view:gpu_samples_1m_mv} TO {local:gpu_samples_1m} AS
SELECT
    toStartOfMinute(s.at) AS at,
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
    max(s.xid) AS xid_max,
    sum(toFloat64(s.encoder_ratio) * s.interval_seconds) AS encoder_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.encoder_ratio)) AS encoder_ratio_weight_seconds,
    max(s.encoder_ratio) AS encoder_ratio_max,
    sum(toFloat64(s.decoder_ratio) * s.interval_seconds) AS decoder_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.decoder_ratio)) AS decoder_ratio_weight_seconds,
    max(s.decoder_ratio) AS decoder_ratio_max,
    sum(s.pcie_receive_bytes) AS pcie_receive_bytes,
    sum(s.pcie_transmit_bytes) AS pcie_transmit_bytes,
    sum(s.nvlink_receive_bytes) AS nvlink_receive_bytes,
    sum(s.nvlink_transmit_bytes) AS nvlink_transmit_bytes,
    sum(toFloat64(s.idle_power_watts) * s.interval_seconds) AS idle_power_watts_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.idle_power_watts)) AS idle_power_watts_weight_seconds,
    max(s.idle_power_watts) AS idle_power_watts_max,
    max(s.recovery_action) AS recovery_action_max,
    sum(toFloat64(s.holders) * s.interval_seconds) AS holders_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.holders)) AS holders_weight_seconds,
    max(s.holders) AS holders_max,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.energy_joules)) AS energy_weight_seconds,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.pcie_receive_bytes)) AS pcie_weight_seconds,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.nvlink_receive_bytes)) AS nvlink_weight_seconds,
    sumMap(map(toUInt8(multiIf(isNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.busy_ratio))), 31, assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.busy_ratio))) < 0.0999995, toUInt8(floor(assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.busy_ratio))) * 100 + 0.00005)), toUInt8(least(27, 10 + floor((assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.busy_ratio))) - 0.1) * 20 + 0.00001)))) + multiIf(isNull(s.holders), 64, assumeNotNull(s.holders) > 0, 32, 0)), toFloat64(s.interval_seconds))) AS activity_seconds
FROM {local:gpu_samples} AS s
GROUP BY s.host, s.gpu_uuid, s.parent_uuid, s.gpu_index, toStartOfMinute(s.at);

ALTER TABLE {table:container_gpu_samples_1m}
    ADD COLUMN IF NOT EXISTS processes_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS processes_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS processes_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS sm_active_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS sm_active_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS sm_active_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_energy_joules SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS energy_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(energy_joules), 0, interval_seconds) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS activity_seconds SimpleAggregateFunction(sumMap, Map(UInt8, Float64)) CODEC(ZSTD(1));

DROP VIEW IF EXISTS {view:container_gpu_samples_1m_mv};

CREATE MATERIALIZED VIEW IF NOT EXISTS {view:container_gpu_samples_1m_mv} TO {local:container_gpu_samples_1m} AS
SELECT
    toStartOfMinute(s.at) AS at,
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
    max(s.power_watts) AS power_watts_max,
    sum(toFloat64(s.processes) * s.interval_seconds) AS processes_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.processes)) AS processes_weight_seconds,
    max(s.processes) AS processes_max,
    sum(toFloat64(s.sm_active_ratio) * s.interval_seconds) AS sm_active_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.sm_active_ratio)) AS sm_active_ratio_weight_seconds,
    max(s.sm_active_ratio) AS sm_active_ratio_max,
    sum(toFloat64(s.idle_power_watts) * s.interval_seconds) AS idle_power_watts_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.idle_power_watts)) AS idle_power_watts_weight_seconds,
    max(s.idle_power_watts) AS idle_power_watts_max,
    sum(s.idle_energy_joules) AS idle_energy_joules,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.energy_joules)) AS energy_weight_seconds,
    sumMap(map(toUInt8(multiIf(isNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.sm_ratio))), 31, assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.sm_ratio))) < 0.0999995, toUInt8(floor(assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.sm_ratio))) * 100 + 0.00005)), toUInt8(least(27, 10 + floor((assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.sm_ratio))) - 0.1) * 20 + 0.00001)))) + s.held * 32), toFloat64(s.interval_seconds))) AS activity_seconds
FROM {local:container_gpu_samples} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, s.gpu_uuid, toStartOfMinute(s.at);

ALTER TABLE {table:inference_samples_1m}
    ADD COLUMN IF NOT EXISTS requests_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(requests), 0, interval_seconds) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS tokens_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(generation_tokens), 0, interval_seconds) CODEC(ZSTD(1));

DROP VIEW IF EXISTS {view:inference_samples_1m_mv};

CREATE MATERIALIZED VIEW IF NOT EXISTS {view:inference_samples_1m_mv} TO {local:inference_samples_1m} AS
SELECT
    toStartOfMinute(s.at) AS at,
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
    max(s.kv_cache_ratio) AS kv_cache_ratio_max,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.requests)) AS requests_weight_seconds,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.generation_tokens)) AS tokens_weight_seconds
FROM {local:inference_samples} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, s.prometheus, s.endpoint, s.server, s.model, toStartOfMinute(s.at);

ALTER TABLE {table:container_samples_1h}
    ADD COLUMN IF NOT EXISTS cpu_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(cpu_seconds), 0, interval_seconds) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS network_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(network_receive_bytes), 0, interval_seconds) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS block_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(block_read_bytes), 0, interval_seconds) CODEC(ZSTD(1));

DROP VIEW IF EXISTS {view:container_samples_1h_mv};

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
    max(s.pids) AS pids_max,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.cpu_seconds)) AS cpu_weight_seconds,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.network_receive_bytes)) AS network_weight_seconds,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.block_read_bytes)) AS block_weight_seconds
FROM {local:container_samples} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, toStartOfHour(s.at);

ALTER TABLE {table:gpu_samples_1h}
    ADD COLUMN IF NOT EXISTS encoder_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS encoder_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS encoder_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS decoder_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS decoder_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS decoder_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS pcie_receive_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS pcie_transmit_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS nvlink_receive_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS nvlink_transmit_bytes SimpleAggregateFunction(sum, Nullable(UInt64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS recovery_action_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS holders_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS holders_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS holders_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS energy_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(energy_joules), 0, interval_seconds) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS pcie_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS nvlink_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS activity_seconds SimpleAggregateFunction(sumMap, Map(UInt8, Float64)) CODEC(ZSTD(1));

DROP VIEW IF EXISTS {view:gpu_samples_1h_mv};

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
    max(s.xid) AS xid_max,
    sum(toFloat64(s.encoder_ratio) * s.interval_seconds) AS encoder_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.encoder_ratio)) AS encoder_ratio_weight_seconds,
    max(s.encoder_ratio) AS encoder_ratio_max,
    sum(toFloat64(s.decoder_ratio) * s.interval_seconds) AS decoder_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.decoder_ratio)) AS decoder_ratio_weight_seconds,
    max(s.decoder_ratio) AS decoder_ratio_max,
    sum(s.pcie_receive_bytes) AS pcie_receive_bytes,
    sum(s.pcie_transmit_bytes) AS pcie_transmit_bytes,
    sum(s.nvlink_receive_bytes) AS nvlink_receive_bytes,
    sum(s.nvlink_transmit_bytes) AS nvlink_transmit_bytes,
    sum(toFloat64(s.idle_power_watts) * s.interval_seconds) AS idle_power_watts_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.idle_power_watts)) AS idle_power_watts_weight_seconds,
    max(s.idle_power_watts) AS idle_power_watts_max,
    max(s.recovery_action) AS recovery_action_max,
    sum(toFloat64(s.holders) * s.interval_seconds) AS holders_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.holders)) AS holders_weight_seconds,
    max(s.holders) AS holders_max,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.energy_joules)) AS energy_weight_seconds,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.pcie_receive_bytes)) AS pcie_weight_seconds,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.nvlink_receive_bytes)) AS nvlink_weight_seconds,
    sumMap(map(toUInt8(multiIf(isNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.busy_ratio))), 31, assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.busy_ratio))) < 0.0999995, toUInt8(floor(assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.busy_ratio))) * 100 + 0.00005)), toUInt8(least(27, 10 + floor((assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.busy_ratio))) - 0.1) * 20 + 0.00001)))) + multiIf(isNull(s.holders), 64, assumeNotNull(s.holders) > 0, 32, 0)), toFloat64(s.interval_seconds))) AS activity_seconds
FROM {local:gpu_samples} AS s
GROUP BY s.host, s.gpu_uuid, s.parent_uuid, s.gpu_index, toStartOfHour(s.at);

ALTER TABLE {table:container_gpu_samples_1h}
    ADD COLUMN IF NOT EXISTS processes_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS processes_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS processes_max SimpleAggregateFunction(max, Nullable(UInt32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS sm_active_ratio_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS sm_active_ratio_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS sm_active_ratio_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_weighted SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_weight_seconds SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_power_watts_max SimpleAggregateFunction(max, Nullable(Float32)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS idle_energy_joules SimpleAggregateFunction(sum, Nullable(Float64)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS energy_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(energy_joules), 0, interval_seconds) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS activity_seconds SimpleAggregateFunction(sumMap, Map(UInt8, Float64)) CODEC(ZSTD(1));

DROP VIEW IF EXISTS {view:container_gpu_samples_1h_mv};

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
    max(s.power_watts) AS power_watts_max,
    sum(toFloat64(s.processes) * s.interval_seconds) AS processes_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.processes)) AS processes_weight_seconds,
    max(s.processes) AS processes_max,
    sum(toFloat64(s.sm_active_ratio) * s.interval_seconds) AS sm_active_ratio_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.sm_active_ratio)) AS sm_active_ratio_weight_seconds,
    max(s.sm_active_ratio) AS sm_active_ratio_max,
    sum(toFloat64(s.idle_power_watts) * s.interval_seconds) AS idle_power_watts_weighted,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.idle_power_watts)) AS idle_power_watts_weight_seconds,
    max(s.idle_power_watts) AS idle_power_watts_max,
    sum(s.idle_energy_joules) AS idle_energy_joules,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.energy_joules)) AS energy_weight_seconds,
    sumMap(map(toUInt8(multiIf(isNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.sm_ratio))), 31, assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.sm_ratio))) < 0.0999995, toUInt8(floor(assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.sm_ratio))) * 100 + 0.00005)), toUInt8(least(27, 10 + floor((assumeNotNull(coalesce(toFloat64(s.sm_active_ratio), toFloat64(s.sm_ratio))) - 0.1) * 20 + 0.00001)))) + s.held * 32), toFloat64(s.interval_seconds))) AS activity_seconds
FROM {local:container_gpu_samples} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, s.gpu_uuid, toStartOfHour(s.at);

ALTER TABLE {table:inference_samples_1h}
    ADD COLUMN IF NOT EXISTS requests_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(requests), 0, interval_seconds) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS tokens_weight_seconds SimpleAggregateFunction(sum, Float64) DEFAULT if(isNull(generation_tokens), 0, interval_seconds) CODEC(ZSTD(1));

DROP VIEW IF EXISTS {view:inference_samples_1h_mv};

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
    max(s.kv_cache_ratio) AS kv_cache_ratio_max,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.requests)) AS requests_weight_seconds,
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.generation_tokens)) AS tokens_weight_seconds
FROM {local:inference_samples} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, s.prometheus, s.endpoint, s.server, s.model, toStartOfHour(s.at);
