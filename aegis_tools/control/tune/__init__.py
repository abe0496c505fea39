"""Sizes and the sample rate: what is observed, what follows from it, and how that becomes live."""
