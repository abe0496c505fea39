"""The monitors' agent: loads what is asked for, stores what is told, watches limits, notifies."""
