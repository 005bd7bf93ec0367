"""Pure logic and catalogue data: no I/O, no clock, no foreign services."""
