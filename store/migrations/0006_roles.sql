-- What is known only through Prometheus is marked, and gateways (proxies whose requests a server behind them counts too)
-- are told apart from servers, so that no token is counted twice. `role` follows from the server's dialect, so any row
-- of a rollup's key has the same one.

ALTER TABLE {table:containers} ADD COLUMN IF NOT EXISTS via LowCardinality(String);

ALTER TABLE {table:gpus} ADD COLUMN IF NOT EXISTS via LowCardinality(String);

ALTER TABLE {table:hosts} ADD COLUMN IF NOT EXISTS via LowCardinality(String);

ALTER TABLE {table:inference_samples} ADD COLUMN IF NOT EXISTS role LowCardinality(String) DEFAULT 'server';

ALTER TABLE {table:histograms} ADD COLUMN IF NOT EXISTS role LowCardinality(String) DEFAULT 'server';

ALTER TABLE {table:inference_samples_1m} ADD COLUMN IF NOT EXISTS role SimpleAggregateFunction(max, LowCardinality(String)) DEFAULT 'server';

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
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.generation_tokens)) AS tokens_weight_seconds,
    max(s.role) AS role
FROM {local:inference_samples} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, s.prometheus, s.endpoint, s.server, s.model, toStartOfMinute(s.at);

ALTER TABLE {table:histograms_1m} ADD COLUMN IF NOT EXISTS role SimpleAggregateFunction(max, LowCardinality(String)) DEFAULT 'server';

DROP VIEW IF EXISTS {view:histograms_1m_mv};

CREATE MATERIALIZED VIEW IF NOT EXISTS {view:histograms_1m_mv} TO {local:histograms_1m} AS
SELECT
    toStartOfMinute(s.at) AS at,
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
    sumForEachState(s.increments) AS increments,
    max(s.role) AS role
FROM {local:histograms} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, s.endpoint, s.server, s.model, s.field, s.bounds, toStartOfMinute(s.at);

ALTER TABLE {table:inference_samples_1h} ADD COLUMN IF NOT EXISTS role SimpleAggregateFunction(max, LowCardinality(String)) DEFAULT 'server';

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
    sumIf(toFloat64(s.interval_seconds), isNotNull(s.generation_tokens)) AS tokens_weight_seconds,
    max(s.role) AS role
FROM {local:inference_samples} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, s.prometheus, s.endpoint, s.server, s.model, toStartOfHour(s.at);

ALTER TABLE {table:histograms_1h} ADD COLUMN IF NOT EXISTS role SimpleAggregateFunction(max, LowCardinality(String)) DEFAULT 'server';

DROP VIEW IF EXISTS {view:histograms_1h_mv};

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
    sumForEachState(s.increments) AS increments,
    max(s.role) AS role
FROM {local:histograms} AS s
GROUP BY s.host, s.tenant, s.container_key, s.container_id, s.endpoint, s.server, s.model, s.field, s.bounds, toStartOfHour(s.at);
