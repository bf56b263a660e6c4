"""One file for each engine that workloads are measured on; each runs in a process and an environment of its own."""
