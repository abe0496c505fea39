"""Aegis Tools: a signed policy file becomes kernel enforcement."""

__version__ = "0.1.0"
