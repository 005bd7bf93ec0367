"""`python -m fleet <tool>`: offline tools that need neither collector nor store.

Exit status: 0 fine, 1 findings, 2 bad usage or something that cannot be read (one line on stderr).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from fleet.tools import UNUSABLE, Tool, ToolError

#: Name -> (module with `main(arguments)`, what it is for). A new tool is one line here.
TOOLS: dict[str, tuple[str, str]] = {
    "cost": ("fleet.tools.cost", "what a described case costs, by tenant and per million tokens"),
    "jobs": ("fleet.tools.jobs", "verify an export of the GPU job ledger"),
    "posture": ("fleet.tools.posture", "security posture of saved docker inspect output or a compose file"),
    "profiles": ("fleet.tools.profiles", "what the metric profiles read in a saved /metrics text"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one tool; the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in {"-h", "--help"}:
        lines = [f"  {name:12}{purpose}" for name, (_, purpose) in sorted(TOOLS.items())]
        text = "\n".join(["usage: python -m fleet <tool> …", "", *lines, ""])
        (sys.stdout if words else sys.stderr).write(text)
        return 0 if words else UNUSABLE
    if words[0] not in TOOLS:
        sys.stderr.write(f"python -m fleet: no tool {words[0]!r}; write one of {', '.join(sorted(TOOLS))}\n")
        return UNUSABLE
    tool: Tool = importlib.import_module(TOOLS[words[0]][0]).main
    try:
        return tool(words[1:])
    except ToolError as error:
        sys.stderr.write(f"python -m fleet {words[0]}: {error}\n")
        return UNUSABLE
    except BrokenPipeError:
        # The reader (head, a pager) has seen enough. stdout is closed already: keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
