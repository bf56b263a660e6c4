"""Where the log of epochs and the checkpoints are: what is promised, names of objects, implementations."""
