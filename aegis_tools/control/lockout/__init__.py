"""The lockout proof: what getting back into this host needs, and which rules would deny it."""
