"""A base image without a registry: this machine's Python, the libraries it needs, and busybox, as a tar.

It stands in for the slim Python image of the Dockerfile: Python in /usr/local, /bin/sh, glibc, libstdc++, no more.
"""

import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.services.dockerd import busybox_tar

_LEFT_OUT = re.compile(r"/(site-packages|test|tests|idlelib|tkinter|turtledemo|lib2to3|__pycache__|config-3[^/]*)(/|$)")
#: What wheels link to and the interpreter itself does not; the slim Python image has them too.
_MORE_LIBRARIES = ("libstdc++.so.6", "libgcc_s.so.1", "librt.so.1", "libdl.so.2", "libpthread.so.0", "libutil.so.1",
                   "libresolv.so.2", "libnss_files.so.2", "libnss_dns.so.2")  # fmt: skip
_FOLDERS = [Path(name) for name in ("/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/x86_64-linux-gnu")]


def python_rootfs(target: Path) -> None:
    """Write the tar. Raises FileNotFoundError when busybox or a library is not installed."""
    prefix = Path(sys.base_prefix)
    name = f"python3.{sys.version_info.minor}"
    with tarfile.open(fileobj=io.BytesIO(busybox_tar())) as base, tarfile.open(target, "w") as tar:
        for member in base.getmembers():
            tar.addfile(member, base.extractfile(member) if member.isfile() else None)
        binary = prefix / "bin" / name
        standard = prefix / "lib" / name
        modules = [file for file in _files(standard) if not _LEFT_OUT.search(str(file))]
        for file in modules:
            tar.add(file.resolve(), f"usr/local/lib/{name}/{file.relative_to(standard)}", recursive=False)
        tar.add(binary.resolve(), f"usr/local/bin/{name}", recursive=False)
        for alias in ("python3", "python"):
            link = tarfile.TarInfo(f"usr/local/bin/{alias}")
            link.type, link.linkname = tarfile.SYMTYPE, name
            tar.addfile(link)
        for library in sorted(_libraries([binary, *(file for file in modules if file.suffix == ".so")])):
            # ld.so looks into /lib/<triplet> without a cache; the loader itself must stay where binaries name it.
            loader = library.name.startswith("ld-linux")
            place = str(library).lstrip("/") if loader else f"lib/{os.uname().machine}-linux-gnu/{library.name}"
            tar.add(library.resolve(), place, recursive=False)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """Everything the binaries link to, by the name they link to it."""
    output = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True).stdout
    found = {Path(match) for match in re.findall(r"(?:=> |^\s+)(/\S+)", output, re.MULTILINE) if ":" not in match}
    for name in _MORE_LIBRARIES:
        found |= {folder / name for folder in _FOLDERS[:2] if (folder / name).exists()}
    return found
