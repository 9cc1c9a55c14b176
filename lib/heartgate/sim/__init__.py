"""The real core on a simulated world: `world` is what DRBD, Pacemaker and the wires do, `explorer` walks through all
of it."""
