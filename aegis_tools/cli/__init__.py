"""The command line: it prints, and decides nothing."""
