"""`python -m fleet jobs verify PATH`: whether an export of the GPU job ledger is complete and unchanged."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fleet.gpu_jobs import Finding, Verification, is_hash
from fleet.job_evidence import ExportError, ExportVerification, verify_file, verify_files
from fleet.tools import FINDINGS, FINE, ToolError, ToolParser

#: Findings printed in full; a chain that was cut to pieces has one for each entry.
_SHOWN = 20


def main(arguments: Sequence[str]) -> int:
    """Run the tool; the exit status. Raises ToolError."""
    parser = ToolParser(prog="python -m fleet jobs", description="The GPU job ledger, offline.")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True, parser_class=ToolParser)
    verify = commands.add_parser("verify", help="check an exported folder, or one of its entries files")
    verify.add_argument("path", type=Path, help="folder of an export, or its entries.csv or entries.json")
    verify.add_argument("--head", action="append", default=[], metavar="HASH", help="a hash that was written down")
    verify.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args(arguments)
    heads = [head.lower() for head in options.head]
    if bad := next((head for head in heads if not is_hash(head)), None):
        raise ToolError(f"--head: found {bad[:70]!r}; write the 64 hex digits of a hash")
    try:
        found = _verify(options.path, heads)
    except ExportError as error:
        raise ToolError(str(error)) from error
    sys.stdout.write(as_json(found.chains, found.findings) if options.json else as_text(found.chains, found.findings))
    if options.path.is_file() and not options.json:
        sys.stdout.write("One file alone cannot show what is missing before and after it: verify the whole folder.\n")
    return FINDINGS if found.all_findings else FINE


def _verify(path: Path, heads: Sequence[str]) -> ExportVerification:
    try:
        if path.is_dir():
            files = {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()}
            return verify_files(files, heads=heads)
        return verify_file(path.name, path.read_bytes(), heads=heads)
    except OSError as error:
        raise ToolError(f"{error.filename or path}: {error.strerror}; write the path of an export") from error


def as_text(chains: Sequence[Verification], others: Sequence[Finding]) -> str:
    """The result for a person: one line a chain, one line a finding."""
    lines: list[str] = []
    for chain in chains:
        word = "BROKEN" if chain.findings else "ok"
        span = "no entries" if chain.last is None else f"entries {chain.first} to {chain.last.sequence}"
        withheld = f", {chain.withheld} of them withheld" if chain.withheld else ""
        head = "" if chain.last is None else f", head {chain.last.hash}"
        lines.append(f"{word:8}chain {_plain(chain.chain)}: {span}{withheld}{head}")
        lines += _findings(chain.findings)
    if others:
        lines += ["BROKEN  files", *_findings(others)]
    return "\n".join(lines or ["ok      no chains"]) + "\n"


def _findings(findings: Sequence[Finding]) -> list[str]:
    lines = [
        f"        {'' if finding.sequence is None else f'entry {finding.sequence}: '}{_plain(finding.what)}"
        for finding in findings[:_SHOWN]
    ]
    return [*lines, f"        and {len(findings) - _SHOWN} more"] if len(findings) > _SHOWN else lines


def as_json(chains: Sequence[Verification], others: Sequence[Finding]) -> str:
    """The result for a program."""
    document = {
        "fine": not others and not any(chain.findings for chain in chains),
        "chains": [
            {
                "chain": chain.chain,
                "entries": chain.entries,
                "withheld": chain.withheld,
                "first": chain.first,
                "last": None if chain.last is None else chain.last.sequence,
                "head": None if chain.last is None else chain.last.hash,
                "findings": [{"sequence": item.sequence, "what": item.what} for item in chain.findings],
            }
            for chain in chains
        ],
        "findings": [{"chain": item.chain, "what": item.what} for item in others],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _plain(text: str) -> str:
    """The text without anything a terminal would obey: an export comes from elsewhere."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
