"""The demo: ``show`` checks commands, ``place`` makes a controller, ``story`` is what is told."""
