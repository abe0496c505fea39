"""Run the kinds of tests one after the other, and count what they found."""
