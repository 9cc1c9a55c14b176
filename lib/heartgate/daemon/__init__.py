"""heartgated: events in, policy, actions out. One loop thread; whatever may take time runs in workers."""
