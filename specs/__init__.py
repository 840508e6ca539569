"""The specification that runs: renderer and lint of the charts, models, stateful machines, mutation."""
