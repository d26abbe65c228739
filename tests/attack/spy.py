"""`saescope serve` that writes down every file and folder that Python opens or changes, with links
resolved."""

import os
import sys

OPENING = {"open", "os.listdir", "os.scandir", "sqlite3.connect"}
CHANGING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod"}


def spy(log: str) -> None:
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in OPENING or event in CHANGING:
            for path in args[:1] if event in OPENING else args[:2]:
                # A relative name may be one below a descriptor, as rmtree has them; what is secret,
                # inotify watches as well.
                if isinstance(path, str | bytes | os.PathLike) and os.path.isabs(path):
                    place = os.path.realpath(os.fsdecode(path))
                    os.write(written, f"{event} {place}\n".encode(errors="replace"))

    sys.addaudithook(hook)


if __name__ == "__main__":
    spy(sys.argv[1])
    from saescope_mcp.cli import main

    main(["serve"])
