"""``python -m aegis_tools``: the same program."""

from aegis_tools.cli.main import main

main()
