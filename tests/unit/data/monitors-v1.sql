-- A store of version 1: the tables as the integration plan shows them, with an event in each.
CREATE TABLE IF NOT EXISTS profiles (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS memory_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pid INTEGER NOT NULL,
    comm TEXT NOT NULL,
    event_type INTEGER NOT NULL,
    size INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    profile_id INTEGER,
    FOREIGN KEY (profile_id) REFERENCES profiles(id)
);

CREATE TABLE IF NOT EXISTS disk_io_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pid INTEGER NOT NULL,
    comm TEXT NOT NULL,
    device_major INTEGER NOT NULL,
    device_minor INTEGER NOT NULL,
    operation INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    latency_ns INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    profile_id INTEGER,
    FOREIGN KEY (profile_id) REFERENCES profiles(id)
);

CREATE INDEX IF NOT EXISTS idx_memory_events_timestamp ON memory_events(timestamp);
CREATE INDEX IF NOT EXISTS idx_memory_events_profile ON memory_events(profile_id);
CREATE INDEX IF NOT EXISTS idx_disk_io_events_timestamp ON disk_io_events(timestamp);
CREATE INDEX IF NOT EXISTS idx_disk_io_events_profile ON disk_io_events(profile_id);

INSERT INTO profiles (name) VALUES ('child');
INSERT INTO memory_events (pid, comm, event_type, size, timestamp, profile_id)
VALUES (11, 'stress-ng', 1, 4096, 1700000000000000, NULL);
INSERT INTO disk_io_events
    (pid, comm, device_major, device_minor, operation, bytes, latency_ns, timestamp, profile_id)
VALUES (12, 'dd', 254, 0, 1, 1048576, 250000000, 1700000001000000, 1);
