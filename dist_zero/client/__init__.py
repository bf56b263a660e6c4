"""How programs are written to and read from: `client.py` for asyncio, `blocking.py` for everybody else."""
