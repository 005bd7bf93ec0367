"""The demo fleet: a pure, seeded model of hosts, GPUs, containers and their load. Nothing here is measured."""
