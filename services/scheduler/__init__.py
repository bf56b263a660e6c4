"""The scheduler: brings what is observed towards what is desired."""
