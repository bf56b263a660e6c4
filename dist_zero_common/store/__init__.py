"""Where the log of epochs is: what is promised, names of objects, implementations."""
