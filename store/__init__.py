"""The one place that talks to ClickHouse, embedded or server."""
