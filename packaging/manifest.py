"""Every installed file, named once: the lab's package, the DEB and the RPM are all made from this list (a test compares them).

The three differ in one thing: where the library lies. Debian has one directory for every version of Python 3. Elsewhere the
directory's name has Python's version in it, so the RPM has a private one, and its executables are told so.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Dict, Iterator, NamedTuple, Tuple

ROOT = Path(__file__).resolve().parents[1]
DEBIAN_LIBRARY = "/usr/lib/python3/dist-packages"
PRIVATE_LIBRARY = "/usr/share/heartgate/python"
PYTHON = "/usr/bin/python3"
SHEBANG = f"#!{PYTHON}"
SHELL = "#!/bin/sh\n"


class Group(NamedTuple):
    """The files of `source` that match `pattern` go under `target`. without: parts of the path that keep a file out."""

    source: str
    pattern: str
    target: str
    mode: int = 0o644
    without: Tuple[str, ...] = ()


LIBRARY = "LIBRARY"  # stands for the directory of the library
GROUPS = (
    Group("lib/heartgate", "**/*.py", f"{LIBRARY}/heartgate", without=("sim",)),  # sim: a tool of the developers
    Group("packaging/sbin", "*", "usr/sbin", 0o755),
    Group("fence", "fence_*", "usr/sbin", 0o755),
    Group("agents", "*", "usr/lib/ocf/resource.d/heartgate", 0o755),
    Group("agents/handlers", "*", "usr/lib/heartgate", 0o755),
    Group("agents/common", "*", "usr/lib/heartgate", 0o755),
    Group("ocf-metadata", "*.xml", "usr/share/heartgate/ocf-metadata"),
    Group("packaging", "*.service", "usr/lib/systemd/system"),
    Group("packaging", "*.preset", "usr/lib/systemd/system-preset"),
    Group("packaging", "heartgate.catalog", "usr/lib/systemd/catalog"),
    Group("packaging", "status.schema.json", "usr/share/heartgate"),
    Group("docs", "*.md", "usr/share/doc/heartgate/docs"),  # what messages name as docs/NAME.md
    Group(".", "README.md", "usr/share/doc/heartgate"),
    Group("packaging", "heartgate.res", "usr/share/doc/heartgate/examples"),
    Group("packaging", "options.ttyS0", "usr/share/doc/heartgate/examples"),
)


class Installed(NamedTuple):
    """One file of the packages. target has no slash in front."""

    target: str
    mode: int
    content: bytes


def files(library: str = DEBIAN_LIBRARY, interpreter: str = PYTHON) -> Iterator[Installed]:
    """All of them, in a fixed order. library: where Python's modules go; interpreter: what runs the executables."""
    for group in GROUPS:
        target = group.target.replace(LIBRARY, library.strip("/"))
        for path in sorted((ROOT / group.source).glob(group.pattern)):
            inner = path.relative_to(ROOT / group.source)
            if not path.is_file() or path.name.startswith(".") or set(inner.parts) & {*group.without, "__pycache__"}:
                continue
            content = path.read_bytes()
            if group.mode & 0o111:
                content = executable(path, content, library, interpreter)
            yield Installed(f"{target}/{inner}", group.mode, content)
    for name, text in sorted(generated().items()):
        yield Installed(name, 0o644, compressed(text) if "/man/" in name else text.encode("utf-8"))


def executable(path: Path, content: bytes, library: str, interpreter: str) -> bytes:
    """With the place of the library and of Python; a script of the shell has Python's place alone. Raises ValueError when it does
    not name them."""
    text = content.decode("utf-8")
    if text.startswith(SHELL):
        if text.count(f"{PYTHON}\n") != 1:
            raise ValueError(f"{path} must end one line with {PYTHON}, so that every package can place it")
        return text.replace(f"{PYTHON}\n", f"{interpreter}\n").encode("utf-8")
    if not text.startswith(SHEBANG) or text.count(f'"{DEBIAN_LIBRARY}"') != 1:
        raise ValueError(f'{path} must start with {SHEBANG} and name "{DEBIAN_LIBRARY}" once, so that every package can place it')
    text = text.replace(SHEBANG, f"#!{interpreter}", 1).replace(f'"{DEBIAN_LIBRARY}"', f'"{library}"')
    return text.encode("utf-8")


def generated() -> Dict[str, str]:
    """What is made from the programs themselves: manual pages and the completion of bash."""
    sys.path[:0] = [str(ROOT / "packaging"), str(ROOT / "lib")]
    try:
        import completion
        import manpages

        pages = {f"usr/share/man/man{name[-1]}/{name}.gz": text for name, text in manpages.pages().items()}
        return {**pages, "usr/share/bash-completion/completions/heartgate": completion.script()}
    finally:
        del sys.path[:2]


def compressed(text: str) -> bytes:
    """As gzip -9n does: no name and no time in it."""
    return gzip.compress(text.encode("utf-8"), 9, mtime=0)


def stage(tree: Path, library: str = DEBIAN_LIBRARY, interpreter: str = PYTHON) -> int:
    """Put everything under `tree`. Returns its size in bytes."""
    size = 0
    for item in files(library, interpreter):
        path = tree / item.target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.content)
        path.chmod(item.mode)
        size += len(item.content)
    return size


def version() -> str:
    text = (ROOT / "lib" / "heartgate" / "__init__.py").read_text(encoding="utf-8")
    return text.split('__version__ = "')[1].split('"')[0]


def main() -> int:
    """manifest.py TREE [LIBRARY [INTERPRETER]]: for debian/rules and the spec."""
    if not 2 <= len(sys.argv) <= 4 or sys.argv[1].startswith("-"):
        sys.stderr.write(f"usage: {sys.argv[0]} TREE [LIBRARY [INTERPRETER]]\n")
        return 2
    tree = Path(sys.argv[1])
    tree.mkdir(parents=True, exist_ok=True)
    stage(tree, *sys.argv[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
