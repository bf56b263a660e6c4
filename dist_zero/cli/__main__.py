"""`python -m dist_zero.cli` is `dist-zero`."""

from dist_zero.cli.main import main

main()
