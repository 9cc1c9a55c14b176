"""Replication for the namespace lab, where no DRBD can be: the `exec` driver's counterpart.

`replicad` replicates a device of numbered records between two nodes with DRBD's semantics in the small (protocol C,
freezing at the loss, fence-peer, generations, resync, split-brain detection); `replica-driver` speaks heartgate's
`exec` protocol.
"""
