"""What DRBD (or an exec driver's replication) calls: thin clients of the daemon."""
