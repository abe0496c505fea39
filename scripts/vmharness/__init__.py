"""Disposable kernel machines for the tests: which kernels, where from, how to run a command on one.

``kernels`` says which kernels there are and picks their packages (pure), ``sources`` finds the
Debian mirror the machine already uses (pure), ``fetch`` fills the cache, ``machine`` boots one.
"""
