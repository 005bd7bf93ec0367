"""The only process that touches Docker, NVML and Prometheus. Start reading at `__main__.py`."""
