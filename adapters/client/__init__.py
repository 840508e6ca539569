"""The client: pipe, manager, traffic, monitor, subscriptions, explain."""
