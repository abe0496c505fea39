"""Getting a host out of trouble: what is wrong, one procedure a scenario, and a record of it."""
