"""Speed and size against peers in the same run. Ratios count; absolute times belong to the machine."""
