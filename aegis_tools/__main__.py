"""The entry point of ``aegisbpf``, ``aegis-tools`` and ``python -m aegis_tools``.

It imports nothing before Ctrl-C is taken care of: most of a cold start is imports.
"""

from __future__ import annotations

import os


def main() -> None:
    """Run the program; a Ctrl-C while it starts ends it without a traceback."""
    try:
        from aegis_tools.cli.main import main as run

        run()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
