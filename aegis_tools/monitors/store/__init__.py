"""What the monitors saw, kept: events and hourly statistics, in SQLite or PostgreSQL.

Every module here needs SQLAlchemy; whoever uses one imports it inside a function.
"""
