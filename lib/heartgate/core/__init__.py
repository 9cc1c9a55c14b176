"""The pure core: facts in, (state, actions) out. No I/O, no clock, no logging; imports nothing of ours but itself."""
