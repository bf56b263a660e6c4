"""How messages get from one process to another: what is promised, names of queues, implementations."""
