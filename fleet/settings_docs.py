"""docs/settings.md from the table of settings: `python -m fleet.settings_docs > docs/settings.md`."""

from __future__ import annotations

import json
import sys

from fleet.settings_table import SECTIONS, TABLE, Setting

HEAD = """# Settings

<!-- Made from the table in fleet/settings_table.py: `python -m fleet.settings_docs > docs/settings.md`. -->

One file, `fleet.toml` (in the folder the commands are started in, or named by `--config` or `AIFLEET_CONFIG`), and
environment variables, which win. No file is fine: then the local Docker daemon (`DOCKER_HOST` is honoured) and this
machine's GPUs are read.

- `python -m collectors check-config` prints what is in force and where each value comes from; mistakes come all at
  once, each with the place, what was found and what to write.
- Of an array of tables (`[[docker]]`) the plain variable sets the first entry; `AIFLEET_DOCKER_1_URL` sets the second
  (from 0). A list is written with commas, a switch as `true` or `false`.
- Secrets are never settings: `password_file` and `token_file` name a file that holds one, read when it is used.
- Relative paths start at the folder the command is started in.
- [fleet.example.toml](../fleet.example.toml) is a file to copy.
"""
COLUMNS = "| setting | default | unit | what it is | variable |\n|---|---|---|---|---|\n"


def render() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for section, (_, kind, array) in SECTIONS.items():
        title = f"`[[{section}]]`" if array else f"`[{section}]`" if section else "At the top of the file"
        text = (kind.__doc__ or "").strip().partition("\n")[0]
        rows = "".join(_row(row) for row in TABLE if row.section == section)
        parts.append(f"\n## {title}\n{text}\n\n{COLUMNS}{rows}")
    return "".join(parts)


def _row(row: Setting) -> str:
    default = list(row.default) if isinstance(row.default, tuple) else row.default
    shown = "required" if row.required and row.default == "" else f"`{json.dumps(default)}`"
    text = row.help.replace("|", "\\|")
    return f"| `{row.key}` | {shown} | {row.unit} | {text} | `{row.variable}` |\n"


if __name__ == "__main__":
    sys.stdout.write(render())
