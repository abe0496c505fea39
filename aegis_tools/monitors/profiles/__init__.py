"""Profiles: users, cgroups and slices that are watched together, and their limits."""
