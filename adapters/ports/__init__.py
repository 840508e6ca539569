"""The world behind small protocols: clock, dial, folder. The simulated world replaces these, nothing else."""
