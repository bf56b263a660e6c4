"""The command line, `dist-zero`. The only package that imports typer and rich."""
