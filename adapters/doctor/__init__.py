"""What can work here, and why: the surroundings read, and each transport tried for real."""
