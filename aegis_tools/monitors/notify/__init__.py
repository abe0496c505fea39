"""Tells people and programs of limits: a D-Bus signal, the journal, a webhook."""
