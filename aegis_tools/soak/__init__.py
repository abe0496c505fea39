"""A soak: a run of minutes to weeks on one host that ends in a verdict.

::

    turn → files of the soak → Soak (reading) → figures → Verdict → report
"""
