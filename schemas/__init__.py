"""The Cap'n Proto schemas: data files in a package, so that they are found wherever DistZero is installed."""
