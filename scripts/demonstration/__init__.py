"""The demo: ``show`` prints and checks commands, ``host`` is the part inside the machine."""
