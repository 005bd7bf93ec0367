"""Pure logic and catalogue data: no I/O, no clock, no foreign services."""

#: The product's version, also in pyproject.toml (a test holds the two together).
__version__ = "0.1.0"
